"""Running ahead where something ends, stops or fails in the middle of it."""

import asyncio
import time
from contextlib import suppress
from dataclasses import replace

import pytest

from generator_svc.decoding.candidates import Candidates
from generator_svc.engine.scorer import ScoredRows, ScoreRows
from generator_svc.engine.sequence import FinishReason, Sequence
from svc_common.errors import ShuttingDownError
from svc_common.lm.model_thread import ModelThread
from tests.generator_svc.test_engine import (
    BASE,
    AlwaysAhead,
    Harness,
    guided,
    ids,
    running_engine,
)


def begin_late(harness: Harness) -> None:
    """Let each forward of guesses begin only some turns of the loop after the rewards came."""
    thread: ModelThread = harness.engine._thread
    score = harness.scorer.score

    async def score_and_hold(rows: ScoreRows) -> ScoredRows:
        scored = await score(rows)
        thread.start(time.sleep, 0.01)  # something else keeps the model thread busy
        return scored

    harness.scorer.score = score_and_hold  # type: ignore[method-assign]


async def test_the_question_leaves_before_the_forward_of_guesses_begins() -> None:
    """Once it had to wait until that forward gave the interpreter back."""
    events: list[str] = []
    async with running_engine(run_ahead=AlwaysAhead(is_allowed=True)) as harness:
        score, start = harness.scorer.score, harness.engine._start_ahead

        def note_sending(rows: ScoreRows) -> "asyncio.Future[ScoredRows]":
            asyncio.get_running_loop().call_soon(events.append, "sent")  # so a writer is woken
            return score(rows)

        def note_start(guessed: dict[Sequence, int]) -> "asyncio.Future[Candidates]":
            events.append("begun")
            return start(guessed)

        harness.scorer.score = note_sending  # type: ignore[method-assign]
        harness.engine._start_ahead = note_start  # type: ignore[method-assign]
        await harness.write("x", guided("x", "wish", max_tokens=5))
    assert events[:-1] == ["sent", "begun"] * 4  # none is begun after the last token
    assert events[-1] == "sent"


async def test_an_answer_that_ends_before_its_guess_is_run_leaves_the_other_rows_right() -> None:
    """Once its row was missing when the forward began, and the engine failed."""
    names, params = ("one", "two", "three"), replace(BASE, max_tokens=20)
    jobs = [replace(guided(name, "wish"), max_tokens=params.max_tokens) for name in names]
    async with running_engine() as harness:
        whole = [await harness.write(*job) for job in zip(names, jobs, strict=True)]
    text = "".join(token.text for token in whole[0])
    stops = [(text[6:9],), (), ()]
    async with running_engine() as harness:
        expected = [await harness.write(*job) for job in zip(names, jobs, stops, strict=True)]
    assert expected[0][-1].finish_reason is FinishReason.STOP_STRING
    async with running_engine(run_ahead=AlwaysAhead(is_allowed=True)) as harness:
        begin_late(harness)
        answers = await asyncio.gather(
            *(harness.write(*job) for job in zip(names, jobs, stops, strict=True))
        )
    assert [ids(answer) for answer in answers] == [ids(answer) for answer in expected]


async def test_an_answer_cancelled_while_running_ahead_frees_its_row_and_hurts_no_other() -> None:
    params = guided("stays", "wish", max_tokens=30)
    async with running_engine() as harness:
        alone = await harness.write("stays", params)
    async with running_engine(num_slots=2, run_ahead=AlwaysAhead(is_allowed=True)) as harness:
        begin_late(harness)
        leaving = harness.sequence("leaves", guided("leaves", "wish", max_tokens=200))
        harness.engine.submit(leaving)
        staying = asyncio.create_task(harness.write("stays", params))
        score = harness.scorer.score

        async def cancel_and_score(rows: ScoreRows) -> ScoredRows:
            if len(leaving.token_ids) == 4:
                harness.engine.cancel(leaving)
            return await score(rows)

        harness.scorer.score = cancel_and_score  # type: ignore[method-assign]
        assert ids(await staying) == ids(alone)
        again = [harness.write(f"next {i}") for i in range(2)]
        await asyncio.gather(*again)
        assert not harness.scorer.committed
        assert leaving.row is None
        assert harness.observer.left_behind == [("tokens", 1)]


@pytest.mark.parametrize("turns", range(4))
async def test_an_engine_that_stops_while_running_ahead_tells_its_readers_and_leaves_no_task(
    turns: int,
) -> None:
    async with running_engine(run_ahead=AlwaysAhead(is_allowed=True)) as harness:
        asking = asyncio.Event()

        async def never(rows: ScoreRows) -> ScoredRows:
            asking.set()
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        sequence = harness.sequence("x", guided("x", "wish"))
        harness.scorer.score = never  # type: ignore[method-assign]
        harness.engine.submit(sequence)
        await asking.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
    with pytest.raises(ShuttingDownError):
        async for _ in sequence.tokens():
            pass
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_forward_of_guesses_that_fails_ends_every_answer_with_its_error() -> None:
    written: list[int] = []

    async def read(sequence: Sequence) -> None:
        async for token in sequence.tokens():
            written.append(token.token_id)  # noqa: PERF401 - what came before the error counts

    async def fail() -> None:
        async with running_engine(run_ahead=AlwaysAhead(is_allowed=True)) as harness:
            decode = harness.runner.decode_beside
            sequence = harness.sequence("x", guided("x", "wish"))

            def broken(*args: object) -> object:
                if len(sequence.token_ids) >= 3:
                    raise RuntimeError("out of memory")
                return decode(*args)  # type: ignore[arg-type]

            harness.runner.decode_beside = broken  # type: ignore[method-assign, assignment]
            harness.engine.submit(sequence)
            with suppress(RuntimeError):
                await read(sequence)
            assert len(written) >= 3
            assert written == sequence.token_ids  # what was chosen reached its reader

    with pytest.raises(RuntimeError, match="out of memory"):
        await fail()
