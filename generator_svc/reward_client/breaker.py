"""A circuit breaker: a replica that failed several times gets no new sessions for a while."""

import time
from collections import deque
from collections.abc import Callable
from enum import Enum

MAX_FAILURES = 3  # of a replica within WINDOW_S: it is left alone
WINDOW_S = 30.0
COOLDOWN_S = (1.0, 16.0)  # first pause, and the longest: it doubles with each probe that failed
PROBE_S = 5.0  # a probe that nothing came of, as its answer was cancelled, is forgotten


class Circuit(Enum):
    """Where a breaker stands."""

    CLOSED = "closed"  # all is well
    OPEN = "open"  # no session is placed
    HALF_OPEN = "half_open"  # one session is placed, to see


class Breaker:
    """Counts what a replica did wrong: rewards that never came, and rewards that are garbage.

    Args:
        on_change: told the new state, of CLOSED and OPEN.
        clock: seconds, rising.
    """

    def __init__(
        self, on_change: Callable[[Circuit], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_change = on_change
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=MAX_FAILURES)
        self._is_open = False
        self._cooldown_s = COOLDOWN_S[0]
        self._reopens_at = 0.0  # when a probe may be made
        self._probe_ends_at = 0.0

    @property
    def circuit(self) -> Circuit:
        if not self._is_open:
            return Circuit.CLOSED
        return Circuit.OPEN if self._clock() < self._reopens_at else Circuit.HALF_OPEN

    @property
    def allows(self) -> bool:
        """Whether a session may be placed now."""
        if not self._is_open:
            return True
        return self.circuit is Circuit.HALF_OPEN and self._clock() >= self._probe_ends_at

    @property
    def last_failure(self) -> float:
        """When it last failed; 0 if never."""
        return self._failures[-1] if self._failures else 0.0

    def note_placed(self) -> None:
        """A session was placed: while half open, the probe."""
        if self._is_open:
            self._probe_ends_at = self._clock() + PROBE_S

    def note_success(self) -> None:
        """All rewards of a question came."""
        if self._is_open and self._probe_ends_at:
            self._is_open = False
            self._failures.clear()
            self._cooldown_s = COOLDOWN_S[0]
            self._on_change(Circuit.CLOSED)

    def note_failure(self) -> None:
        """Rewards did not come in time, or were garbage."""
        now = self._clock()
        self._failures.append(now)
        if self._is_open:
            if self._probe_ends_at:  # else it is about a session from before
                self._cooldown_s = min(2 * self._cooldown_s, COOLDOWN_S[1])
                self._open(now)
        elif len(self._failures) == MAX_FAILURES and now - self._failures[0] <= WINDOW_S:
            self._open(now)

    def _open(self, now: float) -> None:
        self._is_open = True
        self._reopens_at = now + self._cooldown_s
        self._probe_ends_at = 0.0
        self._on_change(Circuit.OPEN)
