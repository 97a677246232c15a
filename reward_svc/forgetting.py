"""Drops what a replica keeps of users who are erased, and of everybody when it is old."""

import asyncio
from collections.abc import Sequence

from reward_svc.metrics import PrefixMetrics
from reward_svc.sessions import SessionCache
from svc_common.errors import InvalidRequestError
from svc_common.lm.model_thread import ModelThread

MAX_SUBJECTS = 10_000
MAX_SUBJECT_BYTES = 32
SWEEP_INTERVAL_S = 30.0


class Forgetting:
    """Clears prefixes and vectors of preferences, on the model thread that they belong to."""

    def __init__(
        self,
        cache: SessionCache,
        thread: ModelThread,
        metrics: PrefixMetrics,
        *,
        sweep_interval_s: float = SWEEP_INTERVAL_S,
    ) -> None:
        self._cache = cache
        self._thread = thread
        self._metrics = metrics
        self._sweep_interval_s = sweep_interval_s

    async def forget(self, subjects: Sequence[bytes]) -> int:
        """Drop what is kept for these users alone; return how many tokens of prefixes that were.

        Raises:
            InvalidRequestError: There are none or too many, or one is none.
        """
        if not 1 <= len(subjects) <= MAX_SUBJECTS:
            rule = f"must have 1..{MAX_SUBJECTS} entries"
            raise InvalidRequestError(f"subjects: {rule}, got {len(subjects)}")
        for i, subject in enumerate(subjects):
            check_subject(f"subjects[{i}]", subject)
            if not subject:
                raise InvalidRequestError(f"subjects[{i}]: must not be empty, got 0 bytes")
        return await self._thread.run(self._forget, subjects)

    async def run(self) -> None:
        """Look for what is too old until cancelled."""
        while True:
            await asyncio.sleep(self._sweep_interval_s)
            await self._thread.run(self._drop_old)

    def _forget(self, subjects: Sequence[bytes]) -> int:
        prefixes, vectors = self._cache.prefixes, self._cache.model.vectors
        num_before = prefixes.num_tokens
        prefixes.forget(subjects)
        if vectors is not None:
            vectors.forget(subjects)
        self._cache.measure_prefixes()
        num_dropped = num_before - prefixes.num_tokens
        self._metrics.forgotten_tokens.inc(num_dropped)
        return num_dropped

    def _drop_old(self) -> None:
        prefixes, vectors = self._cache.prefixes, self._cache.model.vectors
        prefixes.drop_old()
        if vectors is not None:
            vectors.drop_old(prefixes.max_age_s)
        self._cache.measure_prefixes()


def check_subject(field: str, subject: bytes) -> None:
    """Refuse what cannot stand for a user.

    Raises:
        InvalidRequestError: It is too long.
    """
    if len(subject) > MAX_SUBJECT_BYTES:
        rule = f"must have at most {MAX_SUBJECT_BYTES} bytes"
        raise InvalidRequestError(f"{field}: {rule}, got {len(subject)}")
