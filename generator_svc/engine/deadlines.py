"""Wakes the engine when the time of an answer is up, whatever the engine waits for."""

import asyncio
import math
import time
from collections.abc import Callable

from generator_svc.engine.sequence import Sequence


class Deadlines:
    """A timer for each sequence that has a deadline.

    Args:
        on_expiry: told of a sequence whose time is up.
    """

    def __init__(self, on_expiry: Callable[[Sequence], None]) -> None:
        self._on_expiry = on_expiry
        self._timers: dict[Sequence, asyncio.TimerHandle] = {}

    def watch(self, sequence: Sequence) -> None:
        """Begin to watch a sequence."""
        if sequence.deadline == math.inf:
            return
        left_s = max(0.0, sequence.deadline - time.monotonic())
        loop = asyncio.get_running_loop()
        self._timers[sequence] = loop.call_later(left_s, self._on_expiry, sequence)

    def forget(self, sequence: Sequence) -> None:
        """Watch a sequence no more."""
        timer = self._timers.pop(sequence, None)
        if timer is not None:
            timer.cancel()
