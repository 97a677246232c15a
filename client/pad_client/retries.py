"""When a call that came to nothing is sent again: its server was gone, or going.

Only what the server never answered, or refused because it stops, is sent again, and only while
nothing of the answer has arrived. An answer that has begun is the caller's to ask for again: its
tokens may have been shown already. Whatever else a server says, also that its rewards or its store
are away, is the answer.
"""

import threading
import time
from typing import cast

import grpc

from pad_client.errors import PUSHBACK_KEY, REQUEST_ID_KEY, read_pushback

MAX_ATTEMPTS = 6
FIRST_PAUSE_S = 0.05  # and twice as long each time
MAX_ASKED_S = 0.5  # a server that stops asks for that much; for more the caller is asked
# What a client may send again, over all its calls: so many at once, so many a second, and a share
# of its calls. Servers in trouble then get little more than those calls, not six times as many.
MAX_REPEATS = 100.0
REPEATS_PER_S = 10.0
REPEATS_PER_CALL = 0.25


class RetryBudget:
    """Bounds what all calls of a client together may send again; usable from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = MAX_REPEATS
        self._counted_at = time.monotonic()

    def add_call(self) -> None:
        """Count a call, which earns a share of a repeat."""
        with self._lock:
            self._left = min(MAX_REPEATS, self._left + REPEATS_PER_CALL)

    def take(self) -> bool:
        """Return whether a call may be sent again, and count that it is."""
        with self._lock:
            now = time.monotonic()
            earned = (now - self._counted_at) * REPEATS_PER_S
            self._left, self._counted_at = min(MAX_REPEATS, self._left + earned), now
            if self._left < 1:
                return False
            self._left -= 1
            return True


class Attempts:
    """The attempts of one call, which share its deadline.

    Args:
        timeout_s: how long all of them may take.
        budget: that of the client.
        is_repeatable: whether doing it twice is as good as once, should the first have been done.
    """

    def __init__(
        self, timeout_s: float, budget: RetryBudget, *, is_repeatable: bool = True
    ) -> None:
        budget.add_call()
        self._budget = budget
        self._deadline = time.monotonic() + timeout_s
        self._is_repeatable = is_repeatable
        self._num_failed = 0

    @property
    def remaining_s(self) -> float:
        """What is left of the call's time."""
        return max(0.001, self._deadline - time.monotonic())

    def pause_s(self, error: grpc.RpcError) -> float | None:
        """Return how long to wait until the call is sent again; None if the error is the answer."""
        self._num_failed += 1
        pause: float = FIRST_PAUSE_S * 2 ** (self._num_failed - 1)
        asked = _asked_s(error)
        if asked is None or (asked == 0 and not self._is_repeatable):
            return None
        pause = max(pause, asked)
        if self._num_failed >= MAX_ATTEMPTS or pause >= self.remaining_s:
            return None
        return pause if self._budget.take() else None


def _asked_s(error: grpc.RpcError) -> float | None:
    """Return the wait that the failure asks for: 0 if no server answered; None: do not retry."""
    call = cast(grpc.Call, error)
    code, trailing = call.code(), dict(call.trailing_metadata() or ())
    if REQUEST_ID_KEY not in trailing:
        # Refused or lost by gRPC. It resets calls that reach a server in the moment it stops.
        was_reset = code is grpc.StatusCode.CANCELLED and call.details() == "CANCELLED"
        return 0.0 if was_reset or code is grpc.StatusCode.UNAVAILABLE else None
    pushback_ms = read_pushback(trailing.get(PUSHBACK_KEY))
    if code is not grpc.StatusCode.UNAVAILABLE or pushback_ms is None:
        return None
    return pushback_ms / 1000 if 0 < pushback_ms <= MAX_ASKED_S * 1000 else None
