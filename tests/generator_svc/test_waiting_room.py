"""How much may wait, for whom room is left, and when those who are refused come back."""

from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from generator_svc.engine.bookings import MAX_RETRY_S, Bookings
from generator_svc.engine.fair_line import Priority
from generator_svc.engine.scheduler import Place, Scheduler
from generator_svc.engine.sequence import GenerationParams, Sequence
from generator_svc.engine.service_rate import ServiceRate
from generator_svc.engine.waiting_room import (
    Claim,
    RefusalReason,
    RefusedError,
    RoomLimits,
    WaitingRoom,
)
from svc_common.lm.tokenizer import TextStream, Tokenizer
from tests.tiny_model import tiny_tokenizer

TOKENIZER = Tokenizer(tiny_tokenizer(), frozenset())
MAX_TOKENS = 4


def claim(
    tenant: str = "a", num_tokens: int = 10, priority: Priority = Priority.INTERACTIVE, n: int = 1
) -> Claim:
    return Claim(tenant, priority, n, num_tokens)


def room(max_requests: int = 10, max_tokens: int = 1000) -> WaitingRoom:
    return WaitingRoom(RoomLimits(max_requests, max_tokens), lambda tenant, num_tokens: 1.5)


def reason(room: WaitingRoom, wanted: Claim, num_free: int = 0) -> RefusalReason | None:
    """Return why there is no room for a claim, and hold it if there is."""
    try:
        room.check(wanted, num_free)
    except RefusedError as error:
        return error.reason
    room.hold(wanted)
    return None


def test_requests_and_tokens_are_bounded_each_by_its_own_limit() -> None:
    few = room(max_requests=2)
    assert [reason(few, claim()) for _ in range(3)] == [None, None, RefusalReason.QUEUE_REQUESTS]
    small = room(max_tokens=25)
    assert [reason(small, claim()) for _ in range(3)] == [None, None, RefusalReason.QUEUE_TOKENS]
    small.give(claim())
    assert reason(small, claim(num_tokens=16)) is RefusalReason.QUEUE_TOKENS
    assert reason(small, claim(num_tokens=15)) is None


def test_a_request_of_more_tokens_than_may_wait_is_let_in_where_nothing_waits() -> None:
    assert reason(room(max_tokens=5), claim(num_tokens=100)) is None


def test_what_free_slots_are_there_for_does_not_wait() -> None:
    full = room(max_requests=0)
    assert [reason(full, claim(), num_free=2) for _ in range(3)] == [
        None,
        None,
        RefusalReason.QUEUE_REQUESTS,
    ]


def test_samples_of_one_request_are_let_in_together_or_not_at_all() -> None:
    place = room(max_requests=5)
    assert reason(place, claim(n=4)) is None
    assert reason(place, claim(n=2)) is RefusalReason.QUEUE_REQUESTS
    assert place.num_requests == 4


def test_one_tenants_flood_leaves_room_for_another() -> None:
    shared = room(max_requests=50, max_tokens=10_000)
    assert reason(shared, claim("b")) is None
    num_let_in = sum(reason(shared, claim("a")) is None for _ in range(200))
    assert 30 <= num_let_in <= 40  # four fifths
    assert [reason(shared, claim("b")) for _ in range(3)] == [None] * 3
    assert reason(shared, claim("a")) is RefusalReason.QUEUE_SHARE


def test_floods_of_two_tenants_leave_room_for_a_third() -> None:
    shared = room(max_requests=90, max_tokens=10_000)
    held: Counter[str] = Counter()
    for _ in range(200):
        for tenant in "ab":
            held[tenant] += reason(shared, claim(tenant)) is None
    assert held["a"] == held["b"]
    assert reason(shared, claim("c")) is None


def test_a_share_is_of_tokens_too() -> None:
    shared = room(max_requests=1000, max_tokens=1000)
    assert reason(shared, claim("b")) is None
    assert sum(reason(shared, claim("a", 100)) is None for _ in range(20)) <= 8
    assert reason(shared, claim("b", 100)) is None


def test_the_only_tenant_may_fill_the_room() -> None:
    own = room(max_requests=10)
    assert [reason(own, claim()) for _ in range(10)] == [None] * 10


def test_batch_fills_no_more_than_half() -> None:
    shared = room(max_requests=10)
    found = [reason(shared, claim(priority=Priority.BATCH)) for _ in range(6)]
    assert found == [None] * 5 + [RefusalReason.QUEUE_SHARE]
    assert [reason(shared, claim()) for _ in range(5)] == [None] * 5


def test_who_comes_back_when_told_finds_a_place() -> None:
    """Each slot's turn frees a place; all who were refused come at their times, and none twice."""
    now = 0.0
    rate = ServiceRate(num_slots=2)
    rate.note_answer(seconds=1.0, num_tokens=10)  # so two places come free a second
    full = WaitingRoom(RoomLimits(4, 1000), Bookings(rate, lambda: now).book)
    for _ in range(4):
        full.hold(claim())
    told = []
    for _ in range(40):
        with pytest.raises(RefusedError) as caught:
            full.check(claim(), 0)
        assert caught.value.retry_after_s is not None
        told.append(now + caught.value.retry_after_s)
    assert told == sorted(set(told))
    next_start = 0.5
    for at in told:
        now = at
        while next_start <= now + 1e-9:
            full.give(claim())
            next_start += 0.5
        full.check(claim(), 0)
        full.hold(claim())


def test_delays_are_bounded_and_stay_apart() -> None:
    rate = ServiceRate(num_slots=1)
    rate.note_answer(seconds=10.0, num_tokens=10)
    bookings = Bookings(rate, lambda: 0.0)
    told = [bookings.book("deaf", 10) for _ in range(1000)]
    assert max(told) <= MAX_RETRY_S
    assert len(set(told[100:])) > 800
    assert bookings.book("other", 10) == 10.0


def test_nothing_known_is_a_guess_of_a_second() -> None:
    assert Bookings(ServiceRate(4)).book("a", 100) == 1.0


class SchedulerMachine(RuleBasedStateMachine):
    """Places are kept, resized, filled and given back; what is held is what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(num_slots=2, max_waiting=5, max_waiting_tokens=80)
        self.places: list[tuple[Place, Claim]] = []
        self.waiting: list[Sequence] = []
        self.active: list[Sequence] = []

    @rule(tenant=st.sampled_from("ab"), n=st.integers(1, 3), each=st.integers(1, 30))
    def reserve(self, tenant: str, n: int, each: int) -> None:
        wanted = Claim(tenant, Priority.INTERACTIVE, n, n * each)
        with suppress(RefusedError):
            self.places.append((self.scheduler.reserve(wanted), wanted))

    @precondition(lambda self: self.places)
    @rule(each=st.integers(1, 60))
    def resize(self, each: int) -> None:
        place, wanted = self.places.pop()
        try:
            self.scheduler.resize(place, wanted.num_sequences * each)
        except RefusedError:
            return
        num_tokens = wanted.num_sequences * each
        self.places.append(
            (place, Claim(wanted.tenant, wanted.priority, wanted.num_sequences, num_tokens))
        )

    @precondition(lambda self: self.places)
    @rule()
    def fill(self) -> None:
        place, wanted = self.places.pop()
        for _ in range(wanted.num_sequences):
            sequence = new_sequence(wanted.tenant)
            self.scheduler.add(sequence, place)
            self.waiting.append(sequence)

    @precondition(lambda self: self.places)
    @rule()
    def release(self) -> None:
        place, _ = self.places.pop()
        place.release()
        place.release()

    @rule()
    def admit(self) -> None:
        for sequence in self.scheduler.admit():
            self.waiting.remove(sequence)
            self.active.append(sequence)

    @precondition(lambda self: self.waiting)
    @rule()
    def leave_the_queue(self) -> None:
        self.scheduler.remove(self.waiting.pop())

    @precondition(lambda self: self.active)
    @rule()
    def end(self) -> None:
        self.scheduler.remove(self.active.pop())

    @property
    def num_reserved(self) -> int:
        return sum(wanted.num_sequences for _, wanted in self.places)

    @invariant()
    def what_is_held_is_there(self) -> None:
        assert self.scheduler.num_held == len(self.waiting) + self.num_reserved
        reserved = sum(wanted.num_tokens for _, wanted in self.places)
        waiting = sum(sequence.num_tokens for sequence in self.waiting)
        assert self.scheduler.num_held_tokens == reserved + waiting

    @invariant()
    def bounds_hold(self) -> None:
        assert len(self.active) <= 2
        assert self.scheduler.num_held + len(self.active) <= 7


def new_sequence(tenant: str) -> Sequence:
    params = GenerationParams(
        beta=0.0, top_k=3, temperature=0.0, top_p=1.0, seed=0, max_tokens=MAX_TOKENS
    )
    return Sequence("r", [1, 2], params, TextStream(TOKENIZER), frozenset(), tenant=tenant)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=60, deadline=None)
