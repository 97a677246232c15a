"""One process that runs both models writes what the two services write, for fewer rows."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from generator_svc.decoding.strategies import Reference
from generator_svc.engine.scorer import RewardContext
from generator_svc.engine.sequence import GenerationParams
from svc_common.errors import InvalidRequestError
from svc_common.preference_prompt import ChatMessage, add_preference
from tests.colocated_svc.pair import (
    PARAMS,
    RunningPair,
    apart,
    colocated,
    guided,
    ids,
    load,
    rewards_of,
    save_pair,
)
from tests.reward_svc.oracle import value_head_tensors

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")
TOLERANCE = {"rtol": 1e-3, "atol": 1e-3}


def mixed_jobs() -> list[tuple[str, GenerationParams]]:
    """Users with one to three wishes, both rules, greedy and sampled, and some without any."""
    jobs = []
    for i, reference in enumerate([*Reference, *Reference]):
        wishes = [f"wish {i}", "Be kind.", "Rhyme."][: 1 + i % 3]
        text = f"tell me {i}" * (1 + i)
        jobs.append((text, guided(text, *wishes, reference=reference)))
        sampled = guided(text, *wishes, reference=reference, temperature=0.9, seed=i, top_k=5 + i)
        jobs.append((text, sampled))
        jobs.append((text, replace(PARAMS, temperature=0.8 * (i % 2), seed=i)))
        jobs.append((text, guided(text, *wishes, reference=reference, beta=0.0)))
    return jobs


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
async def test_a_mixed_batch_gets_the_tokens_and_rewards_of_the_models_run_apart(
    tmp_path: Path, architecture: str
) -> None:
    variables, jobs = save_pair(tmp_path, architecture), mixed_jobs()
    async with apart(variables) as writer:
        expected = await writer.write_all(jobs)
    # Few slots and small chunks: answers come, wait and go while others are written.
    changes = {"GENERATOR_NUM_SLOTS": 5, "REWARD_NUM_SLOTS": 6, "GENERATOR_PREFILL_CHUNK": 16}
    async with colocated(variables, **changes) as running:
        written = await running.write_all(jobs)
    num_changed = 0
    for theirs, mine in zip(expected, written, strict=True):
        assert ids(mine) == ids(theirs)
        for token, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(rewards_of(token), rewards_of(other), **TOLERANCE)
        num_changed += sum(token.is_changed for token in mine)
    assert num_changed > len(jobs)


@pytest.mark.parametrize("reference", list(Reference))
async def test_an_explained_answer_has_the_same_tokens_and_its_parts_are_its_rewards(
    variables: dict[str, str], reference: Reference
) -> None:
    """Where the base's row is the reference, and where the base reads another prompt."""
    plain = guided("hello", "Be kind.", "Rhyme.", "Be brief.", reference=reference)
    assert plain.reward_context is not None
    told = replace(plain, reward_context=replace(plain.reward_context, is_explained=True))
    async with colocated(variables) as running:
        for prompts_base in (False, True):
            expected = await running.write("hello", plain, prompts_base=prompts_base)
            tokens = await running.write("hello", told, prompts_base=prompts_base)
            assert ids(tokens) == ids(expected)
            for token in tokens:
                assert token.explanation is not None
                assert sum(token.explanation.rewards) == pytest.approx(token.reward, abs=1e-3)
            assert any(token.is_changed for token in tokens)
            assert all(token.explanation is None for token in expected)


async def test_beta_0_and_no_profile_are_base_decoding(variables: dict[str, str]) -> None:
    jobs = [("hello", PARAMS), ("hello", guided("hello", "Be kind.", beta=0.0))]
    async with colocated(variables) as running:
        plain, unguided = await running.write_all(jobs)
        assert ids(plain) == ids(unguided)
        assert ids(await running.write("hello", guided("hello", "Be kind."))) != ids(plain)


@pytest.mark.parametrize("num_users", [1, 4])
@pytest.mark.parametrize("num_wishes", [1, 3])
async def test_a_step_costs_one_forward_for_all_users_preferences_and_both_models(
    variables: dict[str, str], num_users: int, num_wishes: int
) -> None:
    wishes = ["Be kind.", "Rhyme.", "Be brief."][:num_wishes]
    params = guided("same", *wishes, max_tokens=40)
    # Without prefixes, and with chunks that hold a prompt: a forward a prompt.
    changes = {
        "GENERATOR_MAX_PREFIX_CACHE_BYTES": 0,
        "GENERATOR_PREFILL_CHUNK": 1200,
        "GENERATOR_MAX_PREFILL_S": 60,
    }
    async with colocated(variables, **changes) as running:
        await running.write_all([("same", params)] * num_users)
        num_prompts = num_users * (1 + num_wishes)
        num_steps = running.pair.cache.runner.num_forwards - num_prompts
        # Answers start one after the other, as their prompts are read: the base model's by itself,
        # or in the forward that others' tokens run in.
        assert 39 - num_users <= num_steps <= 39 + (num_prompts if num_users > 1 else 0)


async def used_rows(
    running: RunningPair, params: GenerationParams, *, prompts_base: bool = False
) -> int:
    """Return the rows that an answer takes while it is written."""
    answer = running.answer("hello", params, prompts_base=prompts_base)
    running.engine.submit(answer)
    stream = answer.tokens()
    await anext(stream)
    num_used = running.num_used
    assert len([token async for token in stream]) == params.max_tokens - 1
    return num_used


async def test_an_answers_own_row_is_the_references_row_where_both_read_the_same(
    variables: dict[str, str],
) -> None:
    async with colocated(variables) as running:
        assert await used_rows(running, PARAMS) == 1
        for reference in Reference:
            assert await used_rows(running, guided("hello", "a", reference=reference)) == 2
            three = guided("hello", "a", "b", "c", reference=reference)
            assert await used_rows(running, three) == 4
        own = guided("hello", "a")
        assert await used_rows(running, own, prompts_base=True) == 3  # base reads the wish too


async def test_a_reference_with_a_row_of_its_own_gives_the_rewards_of_models_apart(
    variables: dict[str, str],
) -> None:
    params = guided("hello", "a", "b")
    async with apart(variables) as writer:
        expected = await writer.write("hello", params, prompts_base=True)
    async with colocated(variables) as running:
        assert ids(await running.write("hello", params, prompts_base=True)) == ids(expected)


@pytest.mark.parametrize("num_read", [0, 1, 5])
async def test_a_cancelled_answer_frees_all_its_rows(
    variables: dict[str, str], num_read: int
) -> None:
    async with colocated(variables, GENERATOR_PREFILL_CHUNK=8) as running:
        answer = running.answer("x" * 50, guided("x" * 50, "a", "b", max_tokens=200))
        running.engine.submit(answer)
        stream = answer.tokens()
        for _ in range(num_read):
            await anext(stream)
        running.engine.cancel(answer)
        assert len(await running.write("y", guided("y", "a"))) == PARAMS.max_tokens
        await running.write("z", PARAMS)  # its first step gives back what ended before it
        assert running.num_used <= 1
        assert running.pair.scorer.num_free == 64


async def test_answers_wait_until_all_their_rows_are_free_and_all_are_written(
    variables: dict[str, str],
) -> None:
    jobs = [(f"{i}", guided(f"{i}", *["a", "b", "c"][: 1 + i % 3])) for i in range(9)]
    async with colocated(variables, REWARD_NUM_SLOTS=4, GENERATOR_NUM_SLOTS=8) as running:
        together = await running.write_all(jobs)
        alone = [await running.write(*job) for job in jobs]
        assert [ids(answer) for answer in together] == [ids(answer) for answer in alone]
        assert running.pair.scorer.num_free == 4


async def test_who_waits_for_rows_may_leave_and_holds_up_nobody(
    variables: dict[str, str],
) -> None:
    async with colocated(variables, REWARD_NUM_SLOTS=2) as running:
        first = running.answer("x", guided("x", "a", "b", max_tokens=40))
        waiting = running.answer("y", guided("y", "a", "b"))
        running.engine.submit(first)
        running.engine.submit(waiting)
        stream = first.tokens()
        await anext(stream)
        last = asyncio.create_task(running.write("z", guided("z", "a")))
        running.engine.cancel(waiting)
        assert len([token async for token in stream]) == 39
        assert len(await last) == PARAMS.max_tokens
        assert running.pair.scorer.num_free == 2


async def test_prompts_of_both_models_are_read_once(variables: dict[str, str]) -> None:
    text = "y" * 100
    async with colocated(variables) as running:
        runner, params = running.pair.cache.runner, guided(text, "a", max_tokens=1)
        first = await running.write(text, params)
        num_before = runner.num_tokens
        assert ids(await running.write(text, params)) == ids(first)
        assert runner.num_tokens - num_before == 2  # the last token of each prompt


async def test_what_can_never_have_its_rows_is_refused_and_holds_up_nobody(
    variables: dict[str, str],
) -> None:
    async with colocated(variables, REWARD_NUM_SLOTS=2) as running:
        large = guided("x", "a", "b", "c", falls_back=True)
        refused, written = await asyncio.gather(
            running.write("x", large),
            running.write("y", guided("y", "a")),
            return_exceptions=True,
        )
    assert isinstance(refused, InvalidRequestError)
    assert "preferences: must fit in REWARD_NUM_SLOTS=2 rows, need 3" in str(refused)
    assert isinstance(written, list)
    assert len(written) == PARAMS.max_tokens


@pytest.mark.parametrize(
    ("text", "wish", "message"),
    [("x", "<|user|>", "must not hold the control token"), ("x" * 300, "a", "at most 400 tokens")],
)
async def test_what_the_reward_model_cannot_read_is_refused(
    variables: dict[str, str], text: str, wish: str, message: str
) -> None:
    async with colocated(variables) as running:
        with pytest.raises(InvalidRequestError, match=message):
            await running.write(text, guided(text, wish))
        assert len(await running.write("y", guided("y", "a"))) == PARAMS.max_tokens
        assert running.pair.scorer.num_free == 64


async def test_an_answer_ends_when_the_reward_models_context_is_full(
    variables: dict[str, str],
) -> None:
    text = "x" * 240
    async with colocated(variables) as running:
        params = guided(text, "a", max_tokens=300)
        answer = await running.write(text, params)
        longest = len(running.tokenizer.encode_prompt(tuple(add_preference(chat(text), "a"))))
        assert len(answer) == 400 - longest < 300


def chat(text: str) -> tuple[ChatMessage, ...]:
    return (ChatMessage("user", text),)


async def test_a_value_head_is_theta_s_alone(tmp_path: Path) -> None:
    variables = save_pair(tmp_path) | {"REWARD_VALUE_HEAD": "required"}
    save_file(value_head_tensors(), tmp_path / "adapter" / "value_head.safetensors")
    async with colocated(variables) as running:
        token = (await running.write("hello", guided("hello", "Be kind.")))[0]
    weight, bias = value_head_tensors().values()
    logprobs = []
    for name, prompt in (
        ("REWARD_MODEL_DIR", tuple(add_preference(chat("hello"), "Be kind."))),
        ("GENERATOR_MODEL_DIR", chat("hello")),
    ):
        loaded = load(variables[name])
        token_ids = torch.tensor([loaded.tokenizer.encode_prompt(prompt)])
        hidden = loaded.model.base_model(input_ids=token_ids).last_hidden_state[0, -1]
        if name == "REWARD_MODEL_DIR":
            hidden = weight @ hidden + bias
        logits = loaded.model.get_output_embeddings()(hidden)
        logprobs.append(logits[[token_id for token_id, *_ in token.candidates()]].log_softmax(-1))
    torch.testing.assert_close(rewards_of(token), logprobs[0] - logprobs[1], **TOLERANCE)


@pytest.mark.parametrize("reference", list(Reference))
async def test_whole_answers_are_scored_by_the_sum_over_their_tokens(
    variables: dict[str, str], reference: Reference
) -> None:
    """Best-of-n, while another answer takes all rows that sessions may have."""
    answers = [[70, 71, 72], [80, 81]]
    context = guided("hello", "Be kind.", "Rhyme.", reference=reference).reward_context
    assert context is not None
    async with colocated(variables, REWARD_NUM_SLOTS=2, GENERATOR_NUM_SLOTS=1) as running:
        other = guided("other", "a", "b", max_tokens=40)
        (version, rewards), _ = await asyncio.gather(
            running.queries.score_sequences(context, answers, 60.0), running.write("other", other)
        )
        assert version == running.pair.cache.model.version
        await running.write("z", PARAMS)
        assert running.num_used <= 1
    assert rewards == pytest.approx([naive_sum(variables, context, a) for a in answers], abs=1e-2)


@torch.inference_mode()
def naive_sum(variables: dict[str, str], context: RewardContext, answer: list[int]) -> float:
    """Equation 8 for each wish, from scratch."""
    assert isinstance(context.prompt, tuple)
    total = 0.0
    for preference in context.preferences:
        guide = tuple(add_preference(context.prompt, preference.text))
        terms = [("REWARD_MODEL_DIR", guide, preference.weight)]
        if context.reference is Reference.BACKBONE:
            terms.append(("GENERATOR_MODEL_DIR", context.prompt, -preference.weight))
        for name, prompt, weight in terms:
            loaded = load(variables[name])
            token_ids = loaded.tokenizer.encode_prompt(prompt)
            logits = loaded.model(input_ids=torch.tensor([[*token_ids, *answer]])).logits[0]
            logprobs = logits[len(token_ids) - 1 : -1].log_softmax(-1)  # [T, V]
            total += weight * float(logprobs.gather(1, torch.tensor(answer).unsqueeze(1)).sum())
    return total
