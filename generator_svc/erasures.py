"""Clears what an erased user's requests left in caches: in this process and in reward replicas."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from generator_svc.engine.scorer import RewardQueries
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.prefix_cache import PrefixCache

logger = logging.getLogger(__name__)

FORGET_TIMEOUT_S = 2.0
SWEEP_INTERVAL_S = 30.0
MAX_PENDING = 10_000  # erasures heard of but not done; more are as good as all
TOLD_AGAIN_S = 3600.0  # a replica that missed an erasure is told again for so long


class ErasureObserver(Protocol):
    """Receives what became of erasures; must be quick."""

    def erased(self, num_users: int, *, is_complete: bool) -> None:
        """Say for how many users caches were cleared, and whether all replicas confirmed it."""


class PrefixObserver(Protocol):
    """Receives what is left; must be quick."""

    def prefix_cache(self, num_tokens: int, num_bytes: int) -> None:
        """Say what the prefix cache holds now."""


class Erasures:
    """Implements `store_ports.Caches`; what is heard of waits for `run`.

    Args:
        thread: the model thread, to which the prefix cache belongs.
        prefixes: of the base model.
        queries: ask the reward replicas.
        observer: told what became of erasures.
        prefix_observer: told what is left.
        users_under_way: names users whose answers wait or are written.
        sweep_interval_s: what is too old is looked for so often.
    """

    def __init__(
        self,
        thread: ModelThread,
        prefixes: PrefixCache,
        queries: RewardQueries,
        observer: ErasureObserver,
        prefix_observer: PrefixObserver,
        *,
        users_under_way: Callable[[], Iterable[bytes]] = tuple,
        sweep_interval_s: float = SWEEP_INTERVAL_S,
    ) -> None:
        self._thread = thread
        self._prefixes = prefixes
        self._queries = queries
        self._observer = observer
        self._prefix_observer = prefix_observer
        self._users_under_way = users_under_way
        self._sweep_interval_s = sweep_interval_s
        self._pending: dict[bytes, None] = {}
        self._untold: dict[bytes, float] = {}  # to some replica, and until when to try; in order
        self._tell_again_at = math.inf
        self._has_gap = False
        self._arrival = asyncio.Event()

    async def forget(self, subject: bytes) -> None:
        """Drop what is kept for a user; replicas that do not confirm it are told again later."""
        await self._forget([subject])

    def note_erasure(self, subject: bytes) -> None:
        """Have what is kept for a user dropped, without waiting for it."""
        self._pending[subject] = None
        if len(self._pending) > MAX_PENDING:
            self._pending.clear()
            self._has_gap = True
        self._arrival.set()

    def note_gap(self) -> None:
        """Drop all prefixes of this process, as erasures may have been missed."""
        self._has_gap = True
        self._arrival.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._sweep_interval_s):
                    await self._arrival.wait()
            self._arrival.clear()
            pending, self._pending = list(self._pending), {}
            has_gap, self._has_gap = self._has_gap, False
            if pending:
                await self._forget(pending)
            await self._tell_again()
            if has_gap:
                await self._thread.run(self._drop_all, list(self._users_under_way()))
            await self._thread.run(self._drop_old)

    async def _forget(self, subjects: Sequence[bytes]) -> None:
        await self._thread.run(self._drop, subjects)
        is_complete = await self._queries.forget(subjects, FORGET_TIMEOUT_S)
        self._observer.erased(len(subjects), is_complete=is_complete)
        if not is_complete:
            if not self._untold:  # once, however many there are while it is away
                logger.warning("a reward replica was not told of an erasure: it is told again")
            self._note_untold(subjects)

    def _note_untold(self, subjects: Sequence[bytes]) -> None:
        now = time.monotonic()
        self._tell_again_at = min(self._tell_again_at, now + self._sweep_interval_s)
        for subject in subjects:
            self._untold.pop(subject, None)
            self._untold[subject] = now + TOLD_AGAIN_S
        while len(self._untold) > MAX_PENDING:  # what they left there goes by age
            del self._untold[next(iter(self._untold))]

    async def _tell_again(self) -> None:
        """Tell the replicas of erasures that one of them missed, if it is time; it may be back."""
        now = time.monotonic()
        if now < self._tell_again_at:
            return
        self._tell_again_at = now + self._sweep_interval_s
        self._untold = {subject: until for subject, until in self._untold.items() if until > now}
        told = dict(self._untold)
        if told and await self._queries.forget(list(told), FORGET_TIMEOUT_S):
            logger.info("all reward replicas were told of the erasures that one had missed")
            for subject, until in told.items():
                if self._untold.get(subject) == until:  # else it was erased again meanwhile
                    del self._untold[subject]
        if not self._untold:
            self._tell_again_at = math.inf

    def _drop(self, subjects: Sequence[bytes]) -> None:
        self._prefixes.forget(subjects)
        self._measure()

    def _drop_all(self, users: Sequence[bytes]) -> None:
        """Drop everything; what is under way for `users`, who may be erased, keeps nothing."""
        self._prefixes.clear()
        self._prefixes.forget(users)
        self._measure()

    def _drop_old(self) -> None:
        self._prefixes.drop_old()
        self._measure()

    def _measure(self) -> None:
        self._prefix_observer.prefix_cache(self._prefixes.num_tokens, self._prefixes.num_bytes)
