"""A caller's time is up: what waits leaves at once, what runs within a step, what cannot be is not
begun."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from generator_svc.admission.admission import Admission
from generator_svc.admission.limiter import TenantLimiter
from generator_svc.admission.limits import LimitTable
from generator_svc.admission.local_limits import LocalLimits
from generator_svc.deadline import MARGIN_S, Deadline
from generator_svc.engine.scheduler import Scheduler
from generator_svc.engine.sequence import Sequence
from generator_svc.engine.waiting_room import RefusalReason, RefusedError
from generator_svc.request_parsing import GenerationRequest, RequestLimits, parse_request
from pad.v1 import generator_pb2
from svc_common.errors import DeadlineExceededError
from tests.generator_svc.test_engine import BASE, Harness, guided, running_engine
from tests.generator_svc.test_waiting_room import new_sequence

LONG = replace(BASE, max_tokens=200)


class Gate:
    """Holds up a function of the model thread until it is opened."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._is_open = threading.Event()
        self.reached = threading.Event()

    def __call__(self, *args: Any) -> Any:
        self.reached.set()
        self._is_open.wait()
        return self._function(*args)

    def open(self) -> None:
        self._is_open.set()


async def stuck(harness: Harness, running: Sequence) -> Gate:
    """Let a sequence write a token and then hold up its next step."""
    harness.engine.submit(running)
    await anext(running.tokens())
    gate = Gate(harness.runner.decode_beside)
    harness.runner.decode_beside = gate  # type: ignore[method-assign]
    await asyncio.to_thread(gate.reached.wait)
    return gate


async def read(sequence: Sequence) -> int:
    """Return how many tokens come before the deadline error."""
    num_tokens = 0
    try:
        async for _ in sequence.tokens():
            num_tokens += 1
    except DeadlineExceededError:
        return num_tokens
    pytest.fail("the answer was completed")


async def test_what_waits_leaves_at_its_deadline_though_a_step_is_running() -> None:
    async with running_engine(num_slots=1, max_waiting=1) as harness:
        gate = await stuck(harness, harness.sequence("a", LONG))
        try:
            waiting = harness.sequence("b", BASE)
            waiting.deadline = time.monotonic() + 0.05
            harness.engine.submit(waiting)
            assert await read(waiting) == 0
            assert harness.engine.scheduler.num_held == 0
            harness.engine.submit(harness.sequence("c", BASE))  # the place is free
        finally:
            gate.open()


async def test_what_waits_leaves_when_its_caller_hangs_up_though_a_step_is_running() -> None:
    async with running_engine(num_slots=1, max_waiting=1) as harness:
        gate = await stuck(harness, harness.sequence("a", LONG))
        try:
            waiting = harness.sequence("b", BASE)
            harness.engine.submit(waiting)
            harness.engine.cancel(waiting)
            harness.engine.submit(harness.sequence("c", BASE))
        finally:
            gate.open()


async def test_no_running_answer_outlives_its_deadline_by_more_than_a_step() -> None:
    async with running_engine(num_slots=1) as harness:
        running = harness.sequence("a", guided("a", "wish", max_tokens=200))
        running.deadline = time.monotonic() + 3600
        gate = await stuck(harness, running)
        running.deadline = time.monotonic()
        gate.open()
        assert await read(running) <= 1
        assert len(await harness.write("b")) == BASE.max_tokens  # its slot is free
        assert not harness.scorer.committed


async def test_an_answer_whose_rewards_never_come_ends_at_its_deadline() -> None:
    async with running_engine(num_slots=1) as harness:
        running = harness.sequence("a", guided("a", "wish", max_tokens=200))
        harness.scorer.open = lambda session: None  # type: ignore[method-assign]
        running.deadline = time.monotonic() + 0.05
        harness.engine.submit(running)
        assert await read(running) == 0


def test_a_call_on_the_way_gets_what_is_left_to_the_caller() -> None:
    assert Deadline.after(None).limit(10.0) == 10.0
    assert Deadline.after(3600).limit(10.0) == 10.0
    assert 0 < Deadline.after(1.0).limit(10.0) <= 1.0 - MARGIN_S
    assert Deadline.after(-1.0).limit(10.0) > 0


async def test_preparing_a_request_ends_at_its_deadline() -> None:
    with pytest.raises(DeadlineExceededError):
        async with Deadline.after(0.01).enforced():
            await asyncio.Event().wait()
    with pytest.raises(TimeoutError, match="other"):
        async with Deadline.after(60).enforced():
            raise TimeoutError("other")


class Refusals:
    def __init__(self) -> None:
        self.reasons: list[RefusalReason] = []

    def refused(self, reason: RefusalReason) -> None:
        self.reasons.append(reason)


def request(num_characters: int = 400) -> GenerationRequest:
    message = generator_pb2.GenerateRequest(prompt="x" * num_characters, max_tokens=10)
    return parse_request(message, RequestLimits(64, 50, 100))


def admission(scheduler: Scheduler, refusals: Refusals) -> Admission:
    limiter = TenantLimiter(LimitTable(), LocalLimits(lambda: 1.0), None, lambda: None)
    return Admission(scheduler, limiter, refusals, max_prompt_tokens=1000)


async def is_let_in(door: Admission, deadline: Deadline, tenant: str = "default") -> bool:
    async with door.admitted(request(), tenant, deadline):
        return True


async def test_what_cannot_get_a_token_in_time_is_refused_before_anything_is_spent() -> None:
    """100 prompt tokens of 10 ms and a step of 0.5 s: less than half of 1.5 s is surely too few."""
    scheduler, refusals = Scheduler(num_slots=1, max_waiting=5), Refusals()
    door = admission(scheduler, refusals)
    assert await is_let_in(door, Deadline.after(0.7))  # nothing is known yet
    scheduler.rate.note_prompt(10.0, 1000)
    scheduler.rate.note_step(0.5)
    with pytest.raises(DeadlineExceededError, match=r"about 1\.50 s for the prompt and a token"):
        await is_let_in(door, Deadline.after(0.6))
    assert await is_let_in(door, Deadline.after(10.0))
    assert await is_let_in(door, Deadline())
    assert refusals.reasons == [RefusalReason.DEADLINE]
    assert scheduler.num_held == 0


async def test_a_wait_that_is_too_long_is_refused_as_overload_and_says_how_long_it_is() -> None:
    scheduler, refusals = Scheduler(num_slots=1, max_waiting=5), Refusals()
    door = admission(scheduler, refusals)
    scheduler.rate.note_answer(seconds=60.0, num_tokens=6)
    scheduler.add(new_sequence("default"))
    scheduler.admit()
    scheduler.add(new_sequence("default"))
    with pytest.raises(RefusedError, match="until the first token") as caught:
        await is_let_in(door, Deadline.after(20.0))
    assert caught.value.retry_after_s == pytest.approx(60.0)
    assert await is_let_in(door, Deadline.after(40.0))  # half of it may suffice
    assert await is_let_in(door, Deadline.after(20.0), "other")  # who has nothing waiting
    assert refusals.reasons == [RefusalReason.DEADLINE]


async def test_a_prompt_that_was_guessed_too_short_is_refused_once_it_is_known() -> None:
    scheduler, refusals = Scheduler(num_slots=1, max_waiting=5, max_waiting_tokens=300), Refusals()
    door = admission(scheduler, refusals)
    for _ in range(2):
        scheduler.add(new_sequence("default"))
        scheduler.admit()
    async with door.admitted(request(), "default", Deadline()) as ticket:
        door.resize(ticket, request(), 200)
        assert scheduler.num_held_tokens == 6 + 210
        with pytest.raises(RefusedError, match="at most 300 tokens may wait"):
            door.resize(ticket, request(), 1000)
    assert scheduler.num_held == 1
    # What was learnt: 400 characters may well be 400 tokens.
    with pytest.raises(RefusedError, match="at most 300 tokens"):
        await is_let_in(door, Deadline())
    assert refusals.reasons == [RefusalReason.QUEUE_TOKENS] * 2
