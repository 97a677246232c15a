"""A row that cannot be carried out says why and leaves all others as they are."""

import asyncio

import pytest
import torch

from reward_svc.messages import CommitRows, Reason, RowFault
from reward_svc.model import PersRM
from reward_svc.stream import Session
from tests.reward_svc.oracle import Oracle, naive_prompt
from tests.reward_svc.replica import BRIEF, TOLERANCE, Generator, Replica, context, running_replica

CANDIDATES = [7, 99, 30, 140]
TWO = context(("Be brief.", 1.0), ("Be kind.", 1.0))  # three rows


async def fault_of(generator: Generator) -> RowFault:
    answer = await generator.next_answer()
    assert answer.batch_id == 0
    (fault,) = answer.faults
    return fault


async def check_untouched(generator: Generator, number: int, oracle: Oracle) -> None:
    """Session `number` of BRIEF, one token in, scores as if nothing had happened."""
    (rewards,) = await generator.score((number, 1, CANDIDATES))
    assert isinstance(rewards, torch.Tensor), rewards
    torch.testing.assert_close(rewards, oracle.rewards(BRIEF, [42], CANDIDATES), **TOLERANCE)


@pytest.mark.parametrize(
    ("commit", "reason"),
    [
        ((9, 0, 0, 5), Reason.UNKNOWN_SESSION),
        ((1, 1, 1, 5), Reason.OUT_OF_STEP),  # an epoch that is not open
        ((1, 0, 2, 5), Reason.OUT_OF_STEP),
        ((1, 0, 1, 100_000), Reason.INVALID),
    ],
)
async def test_a_commit_that_does_not_fit_changes_nothing(
    model: PersRM, oracle: Oracle, commit: tuple[int, int, int, int], reason: Reason
) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        for number in (1, 2):
            await generator.open(number, BRIEF)
        await generator.commit((1, 0, 42), (2, 0, 42))
        await generator.send(commits=CommitRows.of([commit]))
        fault = await fault_of(generator)
        assert (fault.session, fault.epoch, fault.step) == commit[:3]
        assert fault.reason is reason
        for number in (1, 2):
            await check_untouched(generator, number, oracle)


async def test_rows_of_a_batch_fail_one_by_one(model: PersRM, oracle: Oracle) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        await generator.open(1, BRIEF)
        good, early, unknown = await generator.score(
            (1, 0, CANDIDATES), (1, 1, CANDIDATES), (8, 0, CANDIDATES)
        )
        assert isinstance(good, torch.Tensor)
        torch.testing.assert_close(good, oracle.rewards(BRIEF, [], CANDIDATES), **TOLERANCE)
        assert isinstance(early, RowFault)
        assert early.reason is Reason.OUT_OF_STEP
        assert early.message == "step: must be 0, got 1"
        assert isinstance(unknown, RowFault)
        assert unknown.reason is Reason.UNKNOWN_SESSION
        assert replica.sample("pad_reward_row_errors_total", reason="out_of_step") == 1


async def test_a_session_opened_again_replaces_the_older_one_and_late_rows_are_recognised(
    model: PersRM, oracle: Oracle
) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        await generator.open(1, TWO)
        await generator.open(1, BRIEF, [42], epoch=1)
        assert replica.batcher.load.num_free_slots == 16 - 2
        (late,) = await generator.score((1, 1, CANDIDATES), epoch=0)
        assert isinstance(late, RowFault)
        assert (late.reason, late.epoch) == (Reason.OUT_OF_STEP, 0)
        for epoch in (0, 1):  # a doubled opening, and one that is late
            await generator.send(openings=(generator.opening(1, TWO, epoch=epoch),))
            fault = await fault_of(generator)
            assert (fault.reason, fault.epoch) == (Reason.OUT_OF_STEP, epoch)
        (rewards,) = await generator.score((1, 1, CANDIDATES), epoch=1)
        assert isinstance(rewards, torch.Tensor)
        expected = oracle.rewards(BRIEF, [42], CANDIDATES)
        torch.testing.assert_close(rewards, expected, **TOLERANCE)


async def test_sessions_of_one_number_on_two_streams_are_two(model: PersRM, oracle: Oracle) -> None:
    async with running_replica(model) as replica:
        one, two = replica.generator(), replica.generator()
        await one.open(1, BRIEF)
        await two.open(1, BRIEF)
        await one.commit((1, 0, 42))
        await check_untouched(one, 1, oracle)
        (rewards,) = await two.score((1, 0, CANDIDATES))
        assert isinstance(rewards, torch.Tensor)
        torch.testing.assert_close(rewards, oracle.rewards(BRIEF, [], CANDIDATES), **TOLERANCE)


async def test_a_session_that_finds_too_few_rows_takes_none(model: PersRM) -> None:
    async with running_replica(model, num_slots=4) as replica:
        generator = replica.generator()
        await generator.open(1, BRIEF)
        await generator.send(openings=(generator.opening(2, TWO),))
        fault = await fault_of(generator)
        assert fault.reason is Reason.NO_FREE_SLOTS
        assert fault.message == "num_slots: the session needs 3 rows, 2 are free"
        assert replica.batcher.load.num_free_slots == 2
        await generator.close(1)
        await generator.open(2, TWO)


async def test_waiting_sessions_are_bounded(model: PersRM) -> None:
    async with running_replica(model, max_waiting_sessions=2) as replica:
        generator = replica.generator()
        openings = tuple(generator.opening(number, BRIEF) for number in range(3))
        await generator.send(openings=openings)
        assert (await fault_of(generator)).reason is Reason.NO_FREE_SLOTS
        opened = [(await generator.next_answer()).opened[0].session for _ in range(2)]
        assert opened == [0, 1]


async def test_a_full_context_refuses_the_next_token_and_still_scores(
    model: PersRM, oracle: Oracle
) -> None:
    written = [65] * (model.context_length - len(naive_prompt(BRIEF.prompt, "Be brief.")) - 1)
    async with running_replica(model) as replica:
        generator = replica.generator()
        await generator.open(1, BRIEF, written)
        await generator.commit((1, len(written), 66), (1, len(written) + 1, 67))
        assert (await fault_of(generator)).reason is Reason.INVALID
        (rewards,) = await generator.score((1, len(written) + 1, CANDIDATES))
        assert isinstance(rewards, torch.Tensor)
        expected = oracle.rewards(BRIEF, [*written, 66], CANDIDATES)
        torch.testing.assert_close(rewards, expected, **TOLERANCE)


def watch_exchange(replica: Replica) -> asyncio.Event:
    """Return an event that is set when rows are next freed or taken."""
    loop, is_done, exchange = asyncio.get_running_loop(), asyncio.Event(), replica.cache.exchange

    def watched(closed: list[Session], opened: list[Session]) -> list[Session]:
        refused = exchange(closed, opened)
        loop.call_soon_threadsafe(is_done.set)
        return refused

    replica.cache.exchange = watched  # type: ignore[method-assign,assignment]
    return is_done


async def test_a_forward_that_fails_takes_down_its_own_rows_only(
    model: PersRM, oracle: Oracle, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        for number in (1, 2, 3):
            await generator.open(number, BRIEF)
        await generator.commit((3, 0, 42))
        await replica.settle()
        decode = replica.cache.runner.decode

        def broken(*_: object) -> torch.Tensor:
            raise RuntimeError("out of memory")

        is_freed = watch_exchange(replica)
        replica.cache.runner.decode = broken  # type: ignore[assignment]
        await generator.commit((1, 0, 5), (2, 0, 5))
        faults = [await fault_of(generator) for _ in range(2)]
        assert {(f.session, f.reason) for f in faults} == {
            (1, Reason.INTERNAL),
            (2, Reason.INTERNAL),
        }
        assert "out of memory" in caplog.text
        replica.cache.runner.decode = decode  # type: ignore[method-assign]
        await is_freed.wait()  # at once, not when the next message happens to come
        assert replica.batcher.load.num_free_slots == 16 - 2
        await check_untouched(generator, 3, oracle)
        await generator.open(1, BRIEF, [42], epoch=1)


async def test_a_prefill_that_fails_is_answered_and_gives_its_rows_back(
    model: PersRM, oracle: Oracle
) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        await generator.open(1, BRIEF, [42])
        append = replica.cache.runner.append

        def broken(*_: object) -> torch.Tensor:
            raise RuntimeError("out of memory")

        replica.cache.runner.append = broken  # type: ignore[assignment]
        await generator.send(openings=(generator.opening(2, BRIEF),))
        await generator.ask((2, 0, CANDIDATES))
        answers = [await generator.next_answer() for _ in range(2)]
        assert [a.faults[0].reason for a in answers] == [Reason.INTERNAL] * 2
        replica.cache.runner.append = append  # type: ignore[method-assign]
        await replica.settle()
        assert replica.batcher.load.num_free_slots == 16 - 2
        await check_untouched(generator, 1, oracle)
