"""Who was erased a moment ago: their requests may still be under way, and must leave nothing."""

import math
import time
from collections.abc import Callable, Iterable

from svc_common.lm.partitions import owner_of

BARRED_S = 600.0  # requests of a user that were under way while it was erased end in that time
MAX_BARRED = 1 << 17  # users who were erased in that time; of more nobody knows who they are


class Forgotten:
    """Owners for whom a cache keeps nothing for a while. Whoever owns nothing is none of them.

    Without it, what waited in a queue while its user was erased would be kept when its turn comes.

    Args:
        clock: tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[bytes, float] = {}  # in order
        self._all_until = -math.inf  # so many were that all users count as such

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, owner: bytes) -> bool:
        now = self._clock()
        if owner_of(owner) and now < self._all_until:
            return True
        return self._until.get(owner, -math.inf) > now

    def add(self, owners: Iterable[bytes]) -> None:
        """Bar these from now on."""
        until = self._clock() + BARRED_S
        for owner in filter(owner_of, owners):
            self._until.pop(owner, None)
            self._until[owner] = until
        if len(self._until) > MAX_BARRED:
            self._until.clear()
            self._all_until = until

    def drop_old(self) -> None:
        """Lose sight of those for whom something may be kept again."""
        now = self._clock()
        while self._until and (oldest := next(iter(self._until.items())))[1] <= now:
            del self._until[oldest[0]]
