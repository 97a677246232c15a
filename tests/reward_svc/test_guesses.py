"""Several tokens a forward, tokens taken back, and guesses: each equals a session without them."""

import asyncio

import pytest
import torch

from reward_svc.messages import Reason, RowFault
from reward_svc.model import PersRM
from tests.reward_svc.oracle import Oracle, naive_prompt
from tests.reward_svc.replica import (
    BRIEF,
    TOLERANCE,
    Generator,
    candidate_rows,
    commit_rows,
    context,
    rewards_of,
    running_replica,
)
from tests.tiny_model import VOCABULARY_SIZE

CANDIDATES = [7, 99, 30, 140]
TOKENS = [10, 77, 200, 31]
TWO = context(("Be brief.", 0.5), ("Be kind.", 2.0))


async def check(generator: Generator, oracle: Oracle, written: list[int], number: int = 1) -> None:
    """Session `number` of BRIEF scores as one of these tokens."""
    (rewards,) = await generator.score((number, len(written), CANDIDATES))
    assert isinstance(rewards, torch.Tensor), rewards
    expected = oracle.rewards(BRIEF, written, CANDIDATES)
    torch.testing.assert_close(rewards, expected, **TOLERANCE)


async def test_tokens_of_one_message_are_one_forward_and_score_at_each_of_their_positions(
    model: PersRM, oracle: Oracle
) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        for number in (1, 2):
            await generator.open(number, TWO)
        for step, token in enumerate(TOKENS):
            await generator.commit((2, step, token))
        await replica.settle()
        before = replica.cache.runner.num_forwards
        await generator.commit(*((1, step, token) for step, token in enumerate(TOKENS)))
        steps = range(len(TOKENS) + 1)
        rewards = await generator.score(*((1, step, CANDIDATES) for step in steps))
        assert replica.cache.runner.num_forwards == before + 1
        for step, mine in zip(steps, rewards, strict=True):
            assert isinstance(mine, torch.Tensor), mine
            expected = oracle.rewards(TWO, TOKENS[:step], CANDIDATES)
            torch.testing.assert_close(mine, expected, **TOLERANCE)
        (single,) = await generator.score((2, len(TOKENS), CANDIDATES))
        torch.testing.assert_close(rewards[-1], single, **TOLERANCE)


async def test_a_session_taken_back_scores_as_one_that_never_went_there(
    model: PersRM, oracle: Oracle
) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        await generator.open(1, BRIEF, [5])
        await generator.commit(*((1, 1 + i, token) for i, token in enumerate(TOKENS)))
        await generator.commit((1, 3, 42))
        await check(generator, oracle, [5, 10, 77, 42])
        await generator.commit((1, 0, 43))  # even below what it was opened with
        await check(generator, oracle, [43])
        below, ahead = await generator.score((1, 0, CANDIDATES), (1, 2, CANDIDATES))
        for fault in (below, ahead):
            assert isinstance(fault, RowFault)
            assert fault.reason is Reason.OUT_OF_STEP
            assert fault.message.startswith("step: must be 1, got")


async def test_a_row_sent_twice_in_a_message_does_no_harm(model: PersRM, oracle: Oracle) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        await generator.open(1, BRIEF)
        await generator.commit((1, 0, 42), (1, 0, 42), (1, 1, 43), (1, 0, 42), (1, 1, 43))
        await check(generator, oracle, [42, 43])


async def test_commits_sent_while_the_session_opens_run_when_it_is_open(
    model: PersRM, oracle: Oracle
) -> None:
    async with running_replica(model, prefill_chunk=4) as replica:
        generator = replica.generator()
        await generator.send(openings=(generator.opening(1, BRIEF),))
        await generator.send(
            commits=commit_rows((1, 0, 42), (1, 1, 43)),
            candidates=candidate_rows(5, (1, 1, CANDIDATES), (1, 2, CANDIDATES)),
            tentative=commit_rows((1, 2, 44)),
        )
        assert (await generator.next_answer()).opened
        scored = (await generator.next_answer()).scored
        assert scored is not None
        for (_, step), mine in rewards_of(scored).items():
            expected = oracle.rewards(BRIEF, [42, 43][:step], CANDIDATES)
            torch.testing.assert_close(mine, expected, **TOLERANCE)
        await check(generator, oracle, [42, 43, 44])


async def test_a_guess_runs_after_its_candidates_are_answered(
    model: PersRM, oracle: Oracle
) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        await generator.open(1, BRIEF)
        is_answered = False
        commit = replica.cache.commit
        answered_before: list[bool] = []

        def watched(*args: object) -> None:
            answered_before.append(is_answered)
            commit(*args)  # type: ignore[arg-type]

        async def read() -> None:
            nonlocal is_answered
            await generator.next_answer()
            is_answered = True

        replica.cache.commit = watched  # type: ignore[method-assign]
        reading = asyncio.create_task(read())
        await asyncio.sleep(0)
        await generator.send(
            candidates=candidate_rows(9, (1, 0, CANDIDATES)), tentative=commit_rows((1, 0, 42))
        )
        await reading
        await replica.settle()
        assert answered_before == [True]
        replica.cache.commit = commit  # type: ignore[method-assign]
        before = replica.cache.runner.num_forwards
        await check(generator, oracle, [42])  # right: nothing is run again
        assert replica.cache.runner.num_forwards == before
        await generator.commit((1, 0, 43))  # wrong
        await check(generator, oracle, [43])


async def test_guesses_for_other_sessions_than_the_candidates_are_run_too(
    model: PersRM, oracle: Oracle
) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        for number in (1, 2):
            await generator.open(number, BRIEF)
        await generator.send(
            candidates=candidate_rows(3, (1, 0, CANDIDATES)), tentative=commit_rows((2, 0, 42))
        )
        assert (await generator.next_answer()).scored is not None
        await check(generator, oracle, [])
        await check(generator, oracle, [42], number=2)


async def test_guesses_of_a_session_that_is_closed_in_the_same_moment_hurt_no_other(
    model: PersRM, oracle: Oracle
) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        for number in (1, 2):
            await generator.open(number, BRIEF)
        await generator.send(
            candidates=candidate_rows(3, (1, 0, CANDIDATES), (2, 0, CANDIDATES)),
            tentative=commit_rows((1, 0, 42), (2, 0, 43)),
        )
        await generator.close(1)
        assert (await generator.next_answer()).batch_id == 3
        await check(generator, oracle, [43], number=2)
        await replica.settle()
        assert replica.batcher.load.num_free_slots == 16 - 2
        await generator.send(tentative=commit_rows((1, 1, 44), (2, 1, 45)))
        (fault,) = (await generator.next_answer()).faults
        assert (fault.session, fault.reason) == (1, Reason.UNKNOWN_SESSION)
        await check(generator, oracle, [43, 45], number=2)


@pytest.mark.parametrize("token", [VOCABULARY_SIZE, (1 << 32) - 1])
async def test_a_guess_that_cannot_be_run_leaves_the_session_as_it_was(
    model: PersRM, oracle: Oracle, token: int
) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        await generator.open(1, BRIEF)
        await generator.commit((1, 0, 42))
        for step in (0, 1):  # it would take the session back, or go on
            await generator.send(tentative=commit_rows((1, step, token)))
            (fault,) = (await generator.next_answer()).faults
            assert fault.reason is Reason.INVALID
            await check(generator, oracle, [42])


async def test_more_rows_than_may_wait_are_refused_and_the_rest_is_run(
    model: PersRM, oracle: Oracle
) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        await generator.open(1, BRIEF)
        await generator.commit(*((1, step, 40 + step) for step in range(66)))
        for step in (64, 65):
            (fault,) = (await generator.next_answer()).faults
            assert (fault.step, fault.reason) == (step, Reason.INVALID)
        await check(generator, oracle, [40 + step for step in range(64)])


async def test_tokens_up_to_the_end_of_the_context_run_in_one_forward_and_no_further(
    model: PersRM, oracle: Oracle
) -> None:
    room = model.context_length - len(naive_prompt(BRIEF.prompt, "Be brief."))
    written = [65] * (room - 2)
    async with running_replica(model) as replica:
        generator = replica.generator()
        assert (await generator.open(1, BRIEF, written)).max_answer_tokens == room
        await generator.commit(*((1, room - 2 + i, 66 + i) for i in range(3)))
        (fault,) = (await generator.next_answer()).faults
        assert (fault.step, fault.reason) == (room, Reason.INVALID)
        await check(generator, oracle, [*written, 66, 67])
        await generator.commit((1, room - 1, 70))
        await check(generator, oracle, [*written, 66, 70])
