"""Whatever a stream held is free again when it ends, at whatever moment that is."""

import asyncio
from collections.abc import Generator as Steps

import numpy as np

from reward_svc.jobs import Job, JobQueue
from reward_svc.messages import Opening, Reason
from reward_svc.model import PersRM
from reward_svc.prompts import plan_session
from reward_svc.sequences import score_answers
from reward_svc.stream import Session, Stream
from tests.reward_svc.replica import BRIEF, Generator, context, running_replica

THREE = context(("Be brief.", 0.5), ("Be kind.", 2.0), ("Use metaphors.", 1.0))


async def test_a_stream_that_ends_at_a_random_moment_leaves_nothing_behind(model: PersRM) -> None:
    rng = np.random.default_rng(0)
    async with running_replica(model, prefill_chunk=8) as replica:
        other = replica.generator()
        await other.open(1, BRIEF)
        for _ in range(30):
            generator = replica.generator()
            openings = tuple(generator.opening(number, THREE) for number in range(3))
            await generator.send(openings=openings)
            await generator.commit(*((number, 0, 42) for number in range(3)))
            await generator.ask(*((number, 1, [4, 5]) for number in range(3)))
            for _ in range(int(rng.integers(0, 40))):
                await asyncio.sleep(0)
            replica.batcher.intake.end_stream(generator.stream)
            await replica.settle()
            assert replica.batcher.load.num_free_slots == 14
            assert replica.batcher.load.num_sessions == 1
        (rewards,) = await other.score((1, 0, [4, 5]))
        assert not hasattr(rewards, "reason")


async def test_a_session_closed_during_its_prefill_is_never_announced(model: PersRM) -> None:
    async with running_replica(model, prefill_chunk=4) as replica:
        generator = replica.generator()
        await generator.send(openings=(generator.opening(1, THREE),))
        await generator.ask((1, 0, [4, 5]))
        await generator.close(1)
        await generator.ask((1, 0, [6]))
        answers = [await generator.next_answer() for _ in range(2)]
        assert [a.faults[0].reason for a in answers] == [Reason.UNKNOWN_SESSION] * 2
        await generator.open(1, BRIEF)
        assert replica.batcher.load.num_free_slots == 14


async def test_a_call_that_is_cancelled_gives_its_rows_back(model: PersRM) -> None:
    async with running_replica(model, prefill_chunk=4) as replica:
        plan = plan_session(THREE, model.tokenizer, model.conditioning)
        loop, has_begun = asyncio.get_running_loop(), asyncio.Event()

        def steps() -> Steps[int, None, list[float]]:
            working = score_answers(replica.cache, plan, [[70] * 50] * 4)
            yield next(working)
            loop.call_soon_threadsafe(has_begun.set)
            return (yield from working)

        call = asyncio.create_task(replica.batcher.call(steps()))
        await has_begun.wait()
        assert replica.batcher.load.num_free_slots == 14
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        generator = replica.generator()
        await generator.open(1, BRIEF)
        await generator.open(2, BRIEF)
        assert replica.batcher.load.num_free_slots == 12


async def test_running_sessions_go_on_while_a_long_prefill_waits_its_turn(model: PersRM) -> None:
    async with running_replica(model, prefill_chunk=4) as replica:
        generator = replica.generator()
        await generator.open(1, BRIEF)
        await generator.send(openings=(generator.opening(2, THREE, [70] * 100),))
        num_steps = 0
        while True:  # the opening needs more than 60 chunks
            await generator.commit((1, num_steps, 42))
            num_steps += 1
            await generator.ask((1, num_steps, [4, 5]))
            if (await generator.next_answer()).opened:
                break
        assert num_steps > 10


async def test_a_session_closed_during_its_prefill_keeps_no_stream_open(model: PersRM) -> None:
    async with running_replica(model, prefill_chunk=4) as replica:
        generator = replica.generator()
        await generator.send(openings=(generator.opening(1, THREE),))
        await generator.close(1)
        replica.batcher.intake.half_close(generator.stream)
        assert await generator.stream.next_answer() is None


async def test_a_prefill_gets_its_turns_though_running_sessions_are_always_busy(
    model: PersRM,
) -> None:
    async with running_replica(model, prefill_chunk=16) as replica:
        busy, new = replica.generator(), replica.generator()
        await busy.open(1, BRIEF)
        order: list[str] = []
        # 60 turns of work: each takes the session back, so no two are run in one forward.
        await busy.commit(*((1, 0, 42) for _ in range(60)))
        await busy.ask((1, 1, [4, 5]))
        await new.send(openings=(new.opening(2, THREE),))

        async def note(generator: Generator, name: str) -> None:
            await generator.next_answer()
            order.append(name)

        await asyncio.gather(note(busy, "scored"), note(new, "opened"))
        assert order == ["opened", "scored"]


def test_prefills_and_calls_take_turns(model: PersRM) -> None:
    queue = JobQueue()
    session = Session(Stream(), Opening(1, 0, (), ()))
    prefills = [Job(iter(()), session) for _ in range(2)]  # type: ignore[arg-type]
    calls = [Job(iter(())) for _ in range(2)]  # type: ignore[arg-type]
    for job in (*prefills, *calls):
        queue.add(job)
    turns = [queue.first() for _ in range(4)]
    assert [job in calls for job in turns] in ([True, False] * 2, [False, True] * 2)
    assert {id(job) for job in turns} == {id(prefills[0]), id(calls[0])}
    queue.remove(calls[0])
    queue.remove(calls[1])
    assert queue.first() is queue.first() is prefills[0]


async def test_a_half_closed_stream_finishes_after_its_answers(model: PersRM) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        await generator.send(openings=(generator.opening(1, THREE),))
        await generator.ask((1, 0, [4, 5]))
        replica.batcher.intake.half_close(generator.stream)
        assert (await generator.next_answer()).opened
        assert (await generator.next_answer()).scored
        assert await generator.stream.next_answer() is None


async def test_a_half_closed_stream_answers_faulty_commits_before_it_finishes(
    model: PersRM,
) -> None:
    """It finished before the commits that were sent in front of the half-close were looked at."""
    async with running_replica(model) as replica:
        generator = replica.generator()
        await generator.open(1, BRIEF)
        good = [(1, step, 42) for step in range(3)]
        faulty = [(1, 7, 42), (1, 3, 100_000)]
        await generator.commit(*good, *faulty)
        replica.batcher.intake.half_close(generator.stream)
        faults = [(await generator.next_answer()).faults[0] for _ in faulty]
        assert [(fault.step, fault.reason) for fault in faults] == [
            (7, Reason.OUT_OF_STEP),
            (3, Reason.INVALID),
        ]
        assert await generator.stream.next_answer() is None


async def test_a_draining_replica_lets_sessions_finish_and_opens_none(model: PersRM) -> None:
    async with running_replica(model) as replica:
        busy, idle = replica.generator(), replica.generator()
        await busy.open(1, BRIEF)
        replica.batcher.intake.drain()
        assert await idle.stream.next_answer() is None
        await busy.send(openings=(busy.opening(2, BRIEF),))
        assert (await busy.next_answer()).faults[0].reason is Reason.NO_FREE_SLOTS
        await busy.commit((1, 0, 42))
        (rewards,) = await busy.score((1, 1, [4, 5]))
        assert not hasattr(rewards, "reason")
        await busy.close(1)
        assert await busy.stream.next_answer() is None
