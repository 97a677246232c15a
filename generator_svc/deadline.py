"""The caller's deadline, and how much of it each call on the way may use."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from svc_common.errors import DeadlineExceededError

MARGIN_S = 0.02  # of the caller's time is left to send what was found
_LEAST_S = 0.001


@dataclass(frozen=True)
class Deadline:
    """A point in time by `time.monotonic`, infinite where the caller set none."""

    at: float = math.inf

    @staticmethod
    def after(seconds: float | None) -> "Deadline":
        """Return the deadline of a call that has so long left; None is for ever."""
        return Deadline(math.inf if seconds is None else time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds until then, below 0 when it has passed."""
        return self.at - time.monotonic()

    @property
    def is_near(self) -> bool:
        """Whether a call that was given all the time there is has used it."""
        return self.left_s < 2 * MARGIN_S  # some clocks on the way run by milliseconds

    def limit(self, seconds: float) -> float:
        """Return the timeout of a call that may take `seconds`, and no longer than the caller's."""
        return max(_LEAST_S, min(seconds, self.left_s - MARGIN_S))

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """End the body when the time is up.

        Raises:
            DeadlineExceededError: it was.
        """
        if self.at == math.inf:
            yield
            return
        loop = asyncio.get_running_loop()
        timer = asyncio.timeout_at(loop.time() + self.left_s)
        try:
            async with timer:
                yield
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise DeadlineExceededError("deadline: passed before the prompt was read") from error
