"""A known preference costs fewer tokens and changes no reward."""

import numpy as np
import torch

from reward_svc.encoder import PreferenceEncoder
from reward_svc.messages import Opening
from reward_svc.model import PersRM
from reward_svc.pad_config import Conditioning
from reward_svc.prompts import (
    THETA,
    Plan,
    Reference,
    RewardContext,
    RowPrompt,
    Term,
    WeightedPreference,
    encode_preference,
    plan_session,
)
from svc_common.lm.prefix_tree import common_length
from svc_common.preference_prompt import ChatMessage, Prompt
from tests.reward_svc.oracle import Oracle, naive_prompt
from tests.reward_svc.replica import BRIEF, CHAT, TOLERANCE, context, running_replica

CANDIDATES = [7, 99, 30, 140]
SYSTEM: Prompt = (ChatMessage("system", "You are a poet."), *CHAT)
HEAD = (
    "[Guidelines] Your task is to generate response by considering the following principle."
    " [Principles] Be brief. [Instruction] "
)


def row_prompts(what: RewardContext, model: PersRM) -> tuple[RowPrompt, ...]:
    return plan_session(what, model.tokenizer, Conditioning.PROMPT).prompts


def test_prompts_are_those_a_person_would_write_by_hand(model: PersRM) -> None:
    for prompt in (CHAT, SYSTEM, "Once upon a time"):
        what = context(("Be brief.", 2.0), ("Rhyme.", 0.5), prompt=prompt)
        plan = plan_session(what, model.tokenizer, Conditioning.PROMPT)
        expected = [naive_prompt(prompt, text) for text in ("Be brief.", "Rhyme.", None)]
        assert [list(row.token_ids) for row in plan.prompts] == expected
        assert [row.group for row in plan.prompts] == [0, 0, 1]
        assert plan.terms == (Term(0, 2.0), Term(1, 0.5), Term(2, -2.5))


def test_a_prefix_ends_where_the_instruction_begins(model: PersRM) -> None:
    for prompt, head, plain_head in (
        (CHAT, f"<|bos|><|user|>{HEAD}", "<|bos|><|user|>"),
        (
            SYSTEM,
            f"<|bos|><|system|>You are a poet.<|end|><|user|>{HEAD}",
            "<|bos|><|system|>You are a poet.<|end|><|user|>",
        ),
        ("Once upon a time", HEAD, ""),
    ):
        guided, plain = row_prompts(context(("Be brief.", 1.0), prompt=prompt), model)
        assert list(guided.token_ids[: guided.prefix_length]) == naive_prompt(head, None)
        assert list(plain.token_ids[: plain.prefix_length]) == naive_prompt(plain_head, None)


def test_an_empty_instruction_leaves_a_token_to_run(model: PersRM) -> None:
    (row,) = row_prompts(
        context(("Be brief.", 1.0), prompt=(ChatMessage("user", ""),), reference=Reference.BASE),
        model,
    )
    assert row.prefix_length == len(row.token_ids) - 1


def test_an_encoding_is_believed_only_where_it_is_the_prompts_own_beginning(model: PersRM) -> None:
    right = encode_preference("Be brief.", model.tokenizer)
    (plain, _) = row_prompts(BRIEF, model)
    assert right == plain.token_ids[: plain.prefix_length]
    for encoding in (right, (*right[:-1], 0), encode_preference("Rhyme.", model.tokenizer), ()):
        preference = WeightedPreference("Be brief.", 1.0, encoding)
        what = RewardContext(CHAT, (preference,), Reference.BACKBONE)
        assert row_prompts(what, model)[0] == plain


async def test_a_hit_gives_equal_rewards_and_runs_fewer_tokens(
    model: PersRM, oracle: Oracle
) -> None:
    other_chat: Prompt = (ChatMessage("user", "What is a fjord?"),)
    async with running_replica(model) as replica:
        generator = replica.generator()
        first = await generator.open(1, BRIEF)
        assert first.num_cached_tokens == 0
        again = context(("Be brief.", 1.0), prompt=other_chat)
        second = await generator.open(2, again)
        guided, plain = row_prompts(again, model)
        assert second.num_cached_tokens >= guided.prefix_length + plain.prefix_length
        assert second.num_prompt_tokens == len(guided.token_ids) + len(plain.token_ids)
        (rewards,) = await generator.score((2, 0, CANDIDATES))
        assert isinstance(rewards, torch.Tensor)
        torch.testing.assert_close(rewards, oracle.rewards(again, [], CANDIDATES), **TOLERANCE)
        assert replica.sample("pad_reward_prefix_cache_misses_total") == 2
        assert replica.sample("pad_reward_prefix_cache_hits_total") == 2
        assert replica.sample("pad_reward_prefix_cache_tokens") > 0


async def test_a_prompt_that_is_the_beginning_of_a_kept_prefix_still_runs_its_last_token(
    model: PersRM,
) -> None:
    longer, candidates = tuple(range(60, 100)), [7, 99, 30]
    shorter = Plan((RowPrompt(THETA, longer[:20], 10),), (Term(0, 1.0),))
    async with running_replica(model) as replica:
        cold = replica.generator()
        await cold.send(openings=(Opening(1, 0, shorter, ()),))
        await cold.next_answer()
        (expected,) = await cold.score((1, 0, candidates))
        await replica.batcher.call(replica.cache.warm(RowPrompt(THETA, longer, 40)))
        warm = replica.generator()
        await warm.send(openings=(Opening(1, 0, shorter, ()),))
        assert (await warm.next_answer()).opened[0].num_cached_tokens == 19
        (rewards,) = await warm.score((1, 0, candidates))
        torch.testing.assert_close(rewards, expected, **TOLERANCE)


async def test_an_encoded_preference_is_warm_before_its_first_session(model: PersRM) -> None:
    async with running_replica(model) as replica:
        token_ids = await PreferenceEncoder(replica.cache, replica.batcher).encode("Be brief.")
        assert replica.batcher.load.num_free_slots == 16
        opened = await replica.generator().open(1, BRIEF)
        assert opened.num_cached_tokens == len(token_ids)


async def test_a_replica_without_free_rows_encodes_all_the_same(model: PersRM) -> None:
    async with running_replica(model, num_slots=2) as replica:
        await replica.generator().open(1, BRIEF)
        token_ids = await PreferenceEncoder(replica.cache, replica.batcher).encode("Be brief.")
        assert tuple(token_ids) == encode_preference("Be brief.", model.tokenizer)


def test_common_length_counts_equal_items_from_the_beginning() -> None:
    rng = np.random.default_rng(1)
    one = rng.integers(9, size=20).tolist()
    assert common_length(one, [*one[:7], -1, *one[8:]]) == 7
    assert common_length(one, one[:7]) == 7
    assert common_length(one, []) == 0
