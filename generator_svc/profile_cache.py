"""Copies kept in this process: a bounded cache that knows ages, and reads that callers share."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_V = TypeVar("_V")


class LocalCache(Generic[_V]):
    """Keeps `max_entries` values; the least recently used one goes first."""

    def __init__(self, max_entries: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_entries = max_entries
        self._clock = clock
        self._entries: OrderedDict[str, tuple[_V, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str, max_age_s: float) -> _V | None:
        """Return the value of `key` unless it is absent or older than `max_age_s`."""
        if key not in self._entries:
            return None
        value, stored_at = self._entries[key]
        if self._clock() - stored_at > max_age_s:
            return None
        self._entries.move_to_end(key)
        return value

    def put(self, key: str, value: _V) -> None:
        self._entries[key] = (value, self._clock())
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def drop_older(self, max_age_s: float) -> None:
        """Forget values older than `max_age_s`, so that none stays for being asked for no more."""
        limit = self._clock() - max_age_s
        old = [key for key, (_, stored_at) in self._entries.items() if stored_at < limit]
        for key in old:
            del self._entries[key]

    def discard(self, key: str) -> None:
        self._entries.pop(key, None)

    def keys(self) -> set[str]:
        """Return the keys of all values, however old."""
        return set(self._entries)


class SharedReads(Generic[_V]):
    """Lets callers who want the same key at the same time share one read."""

    def __init__(self) -> None:
        self._reads: dict[str, asyncio.Task[_V]] = {}

    async def read(self, key: str, start: Callable[[], Awaitable[_V]], within_s: float) -> _V:
        """Return the result of `start()`, or of a read of `key` that is under way.

        A caller who is cancelled or gives up leaves; the read goes on for the others, and ends by
        its own timeout.

        Raises:
            TimeoutError: There was none within `within_s`.
        """
        read = self._reads.get(key)
        if read is None:
            read = asyncio.ensure_future(_run(start))
            self._reads[key] = read
            read.add_done_callback(lambda done: self._forget(key, done))
        done, _ = await asyncio.wait((read,), timeout=within_s)
        if not done:
            raise TimeoutError
        return await asyncio.shield(read)  # at once, but cancellable as any

    def is_current(self, key: str) -> bool:
        """Tell, from inside of `start`, whether `key` is unchanged since its read began."""
        return self._reads.get(key) is asyncio.current_task()

    def supersede(self, key: str) -> None:
        """Make later callers start a new read, as what is being read now may be outdated."""
        self._reads.pop(key, None)

    def supersede_all(self) -> None:
        self._reads.clear()

    def _forget(self, key: str, read: "asyncio.Task[_V]") -> None:
        if self._reads.get(key) is read:
            del self._reads[key]
        if not read.cancelled():
            read.exception()  # seen, even if all who asked have left


async def _run(start: Callable[[], Awaitable[_V]]) -> _V:
    return await start()
