"""Whole answers get the sum of their tokens' rewards over the whole vocabulary."""

import asyncio

import pytest
import torch

from reward_svc.model import PersRM
from reward_svc.pad_config import Conditioning
from reward_svc.prompts import Reference, RewardContext, plan_session
from reward_svc.sequences import score_answers
from svc_common.errors import OverloadedError
from tests.reward_svc.oracle import Oracle, naive_prompt
from tests.reward_svc.replica import BRIEF, context, running_replica

ANSWERS = [[70, 71, 72], [80], [], [90 + i % 30 for i in range(70)]]
TWO = context(("Be brief.", 0.5), ("Be kind.", 2.0), reference=Reference.BASE)

TWO_AND_REFERENCE = context(("Be brief.", 0.5), ("Be kind.", 2.0))


def naive_reward(oracle: Oracle, what: RewardContext, answer: list[int]) -> float:
    """One full forward a token and preference."""
    total = 0.0
    for i, token in enumerate(answer):
        for preference in what.preferences:
            logits = oracle.preference_logits(what, preference.text, answer[:i])
            term = logits.log_softmax(0)[token]
            if what.reference is Reference.BACKBONE:
                plain = oracle.logits(naive_prompt(what.prompt, None), answer[:i], is_theta=False)
                term = term - plain.log_softmax(0)[token]
            total += preference.weight * float(term)
    return total


@pytest.mark.parametrize("conditioning", list(Conditioning))
@pytest.mark.parametrize("what", [BRIEF, TWO, TWO_AND_REFERENCE])
async def test_rewards_of_answers_equal_a_full_recompute(
    models: dict[Conditioning, PersRM], conditioning: Conditioning, what: RewardContext
) -> None:
    model, oracle = models[conditioning], Oracle.of(conditioning=conditioning)
    async with running_replica(model) as replica:
        plan = plan_session(what, model.tokenizer, conditioning)
        rewards = await replica.batcher.call(score_answers(replica.cache, plan, ANSWERS))
        expected = [naive_reward(oracle, what, answer) for answer in ANSWERS]
        torch.testing.assert_close(
            torch.tensor(rewards), torch.tensor(expected), rtol=1e-4, atol=1e-3
        )
        assert replica.batcher.load.num_free_slots == 16


async def test_answers_are_scored_between_the_steps_of_running_sessions(model: PersRM) -> None:
    async with running_replica(model, prefill_chunk=4) as replica:
        generator = replica.generator()
        await generator.open(1, BRIEF)
        plan = plan_session(TWO, model.tokenizer, Conditioning.PROMPT)
        call = asyncio.create_task(
            replica.batcher.call(score_answers(replica.cache, plan, ANSWERS))
        )
        num_steps = 0
        while not call.done():
            await generator.commit((1, num_steps, 42))
            num_steps += 1
            await generator.score((1, num_steps, [4, 5]))
        assert num_steps > 10
        assert len(await call) == len(ANSWERS)


async def test_too_few_rows_refuse_the_call(model: PersRM) -> None:
    async with running_replica(model, num_slots=3) as replica:
        await replica.generator().open(1, BRIEF)
        plan = plan_session(BRIEF, model.tokenizer, Conditioning.PROMPT)
        with pytest.raises(OverloadedError, match="num_slots: the call needs 2 rows, 1 are free"):
            await replica.batcher.call(score_answers(replica.cache, plan, ANSWERS))


async def test_a_call_over_the_bound_is_refused_at_once(model: PersRM) -> None:
    async with running_replica(model, max_waiting_sessions=1) as replica:
        plan = plan_session(BRIEF, model.tokenizer, Conditioning.PROMPT)
        calls = [
            asyncio.create_task(replica.batcher.call(score_answers(replica.cache, plan, ANSWERS)))
            for _ in range(2)
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(results[0], list)
        assert isinstance(results[1], OverloadedError)
        assert results[1].retry_after_s is not None


async def test_an_answer_runs_once_for_all_preferences_that_share_its_row(
    models: dict[Conditioning, PersRM],
) -> None:
    model, answers = models[Conditioning.VECTOR], [[70, 71, 72]]
    counts = []
    for what in (BRIEF, context(("Be brief.", 1.0), ("Be kind.", 0.5), ("Rhyme.", 0.3))):
        async with running_replica(model) as replica:
            plan = plan_session(what, model.tokenizer, Conditioning.VECTOR)
            await replica.batcher.call(score_answers(replica.cache, plan, answers))
            counts.append(replica.cache.runner.num_forwards)
    assert counts[0] == counts[1]
