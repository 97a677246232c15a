"""When a replica is left alone, for how long, and after how long it is given up."""

from dataclasses import dataclass, field

import pytest

from generator_svc.reward_client.breaker import COOLDOWN_S, MAX_FAILURES, WINDOW_S, Breaker, Circuit
from generator_svc.reward_client.patience import Patience


@dataclass
class Clock:
    now: float = 100.0
    changes: list[Circuit] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def breaker(self) -> Breaker:
        return Breaker(self.changes.append, self)


def fail(breaker: Breaker, times: int = MAX_FAILURES) -> None:
    for _ in range(times):
        breaker.note_failure()


def test_it_opens_after_several_failures_in_a_window_and_not_before() -> None:
    clock = Clock()
    breaker = clock.breaker()
    fail(breaker, MAX_FAILURES - 1)
    clock.now += WINDOW_S + 1
    breaker.note_failure()
    assert breaker.allows
    fail(breaker, MAX_FAILURES - 1)
    assert not breaker.allows
    assert clock.changes == [Circuit.OPEN]


def test_after_a_pause_one_session_is_let_through_and_closes_it() -> None:
    clock = Clock()
    breaker = clock.breaker()
    fail(breaker)
    breaker.note_success()  # of a session from before
    assert breaker.circuit is Circuit.OPEN
    clock.now += COOLDOWN_S[0]
    assert breaker.circuit is Circuit.HALF_OPEN
    assert breaker.allows
    breaker.note_placed()
    assert not breaker.allows
    breaker.note_success()
    assert breaker.circuit is Circuit.CLOSED
    assert breaker.allows
    assert clock.changes == [Circuit.OPEN, Circuit.CLOSED]


def test_each_probe_that_fails_doubles_the_pause_up_to_a_limit() -> None:
    clock = Clock()
    breaker = clock.breaker()
    fail(breaker)
    pause = COOLDOWN_S[0]
    for _ in range(6):
        clock.now += pause - 0.01
        assert not breaker.allows
        clock.now += 0.01
        assert breaker.allows
        breaker.note_placed()
        breaker.note_failure()
        pause = min(2 * pause, COOLDOWN_S[1])
    assert pause == COOLDOWN_S[1]


def test_a_probe_that_nothing_came_of_is_forgotten() -> None:
    clock = Clock()
    breaker = clock.breaker()
    fail(breaker)
    clock.now += COOLDOWN_S[0]
    breaker.note_placed()
    assert not breaker.allows
    clock.now += 60
    assert breaker.allows


@pytest.mark.parametrize(
    ("usual_s", "limit_s"), [(0.01, 1.0), (0.12, 1.44), (0.3, 2.0), (5.0, 2.0)]
)
def test_a_fast_replica_is_given_up_sooner_though_never_before_half_the_time(
    usual_s: float, limit_s: float
) -> None:
    patience = Patience()
    assert patience.limit_s(2.0) == 2.0  # nothing is known
    patience.note(usual_s)
    assert patience.limit_s(2.0) == pytest.approx(limit_s)
    for _ in range(200):
        patience.note(usual_s)
    assert patience.limit_s(2.0) == pytest.approx(min(2.0, max(1.0, 4 * usual_s)))
