"""Clears what an erased user's requests left in caches: in this process and in reward replicas."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Protocol

from generator_svc.engine.scorer import RewardQueries
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.prefix_cache import PrefixCache

logger = logging.getLogger(__name__)

FORGET_TIMEOUT_S = 2.0
SWEEP_INTERVAL_S = 30.0
MAX_PENDING = 10_000  # erasures heard of but not done; more are as good as all


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
        sweep_interval_s: float = SWEEP_INTERVAL_S,
    ) -> None:
        self._thread = thread
        self._prefixes = prefixes
        self._queries = queries
        self._observer = observer
        self._prefix_observer = prefix_observer
        self._sweep_interval_s = sweep_interval_s
        self._pending: dict[bytes, None] = {}
        self._has_gap = False
        self._arrival = asyncio.Event()

    async def forget(self, subject: bytes) -> None:
        """Drop what is kept for a user; replicas that do not confirm it let it grow old."""
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
            await self._thread.run(self._sweep, is_all=has_gap)

    async def _forget(self, subjects: Sequence[bytes]) -> None:
        await self._thread.run(self._drop, subjects)
        is_complete = await self._queries.forget(subjects, FORGET_TIMEOUT_S)
        self._observer.erased(len(subjects), is_complete=is_complete)
        if not is_complete:
            logger.warning("a reward replica was not told of an erasure: its caches grow old")

    def _drop(self, subjects: Sequence[bytes]) -> None:
        self._prefixes.forget(subjects)
        self._measure()

    def _sweep(self, *, is_all: bool) -> None:
        if is_all:
            self._prefixes.clear()
        self._prefixes.drop_old()
        self._measure()

    def _measure(self) -> None:
        self._prefix_observer.prefix_cache(self._prefixes.num_tokens, self._prefixes.num_bytes)
