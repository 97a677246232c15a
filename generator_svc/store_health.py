"""Knows whether Redis answers, so that nobody waits for one that does not."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from generator_svc.redis_calls import FailureKind, answering, failure_kind
from svc_common.errors import StoreUnavailableError

# A connection that fails so says that there is no answer to be had, not what the answer is.
_SILENCE: tuple[FailureKind, ...] = ("silent", "unreachable", "loading")


@dataclass(frozen=True)
class Patience:
    """How long Redis is waited for, in seconds.

    Attributes:
        timeout_s: Nothing waits longer.
        quick_s: What can be done without waits no longer; so long a silence makes Redis suspect.
        probe_interval_s: Pause between two questions whether it is back.
    """

    timeout_s: float
    quick_s: float
    probe_interval_s: float


class StoreHealth:
    """Guards every call of Redis.

    Redis is suspect once a call has waited `quick_s` and no call was answered meanwhile, or a
    connection failed. From then on it is pinged. It is down when a ping fails and again nobody was
    answered meanwhile; then calls fail at once instead of waiting. Whatever answer ends both: a
    refusal is one, and so is the answer of a Redis that is only busy.

    Attributes:
        is_suspect: Redis may be down; what can be done without is not asked for.
        is_down: Redis answers nobody.
    """

    def __init__(
        self,
        client: Redis,
        patience: Patience,
        on_failure: Callable[[FailureKind], None],
        on_change: Callable[[bool], None],
    ) -> None:
        """Make a guard that takes Redis for well.

        Args:
            client: Who pings.
            patience: How long calls may wait.
            on_failure: Told of each call that came to nothing, and why.
            on_change: Told whether Redis is up, when that changes.
        """
        self.is_suspect = False
        self.is_down = False
        self.patience = patience
        self._client = client
        self._on_failure = on_failure
        self._on_change = on_change
        self._answered_at = time.monotonic()
        self._probing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Stop asking whether Redis is back."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait((self._probing,))

    @asynccontextmanager
    async def answering(self, *, is_optional: bool = False) -> AsyncIterator[None]:
        """Run calls of Redis in the body.

        Args:
            is_optional: What Redis holds can be done without: see `redis_calls.answering`. It gets
                `quick_s`, and nothing while Redis is suspect.

        Raises:
            StoreUnavailableError: Redis is down, or the body did not get its answers in time.
        """
        async with self._counted(self._limit(is_optional=is_optional), is_optional=is_optional):
            yield

    @asynccontextmanager
    async def clearing(self) -> AsyncIterator[None]:
        """Run calls as `answering` does, that must be done, whatever Redis holds.

        Raises:
            StoreUnavailableError: They were not.
        """
        async with self._counted(self._limit(is_optional=False), is_optional=True):
            yield

    def note_answer(self) -> None:
        """Hear that Redis answered somebody."""
        self._answered_at = time.monotonic()
        self.is_suspect = False
        if self.is_down:
            self.is_down = False
            self._on_change(True)

    @asynccontextmanager
    async def _counted(self, timeout_s: float, *, is_optional: bool) -> AsyncIterator[None]:
        began_at = time.monotonic()
        loop = asyncio.get_running_loop()
        alarm = loop.call_later(self.patience.quick_s, self._suspect, began_at)
        try:
            async with answering(timeout_s, is_optional=is_optional):
                yield
        except StoreUnavailableError as error:
            await self._note_failure(failure_kind(error.__cause__), began_at)
            raise
        finally:
            alarm.cancel()
        self.note_answer()

    def _limit(self, *, is_optional: bool) -> float:
        """Return how long a call may wait.

        Raises:
            StoreUnavailableError: It need not begin.
        """
        if self.is_down or (is_optional and self.is_suspect):
            self._on_failure("down")
            raise StoreUnavailableError(
                "profile store: does not answer; it is asked again every"
                f" {self.patience.probe_interval_s} s",
                retry_after_s=1.0,
            )
        return self.patience.quick_s if is_optional else self.patience.timeout_s

    async def _note_failure(self, kind: FailureKind, began_at: float) -> None:
        self._on_failure(kind)
        if kind in _SILENCE:
            self._suspect(began_at)
            return
        self.note_answer()
        if kind == "read_only":
            # The address may belong to another server by now: kept connections do not.
            await self._client.connection_pool.disconnect(inuse_connections=False)

    def _suspect(self, began_at: float) -> None:
        """Begin to ping, unless somebody was answered since `began_at`."""
        if self.is_suspect or self._answered_at > began_at:
            return
        self.is_suspect = True
        if self._probing is None or self._probing.done():
            self._probing = asyncio.ensure_future(self._probe())

    async def _probe(self) -> None:
        """Ping until somebody is answered."""
        while self.is_suspect:
            began_at = time.monotonic()
            try:
                async with answering(self.patience.timeout_s, is_optional=True):
                    await self._client.ping()
            except StoreUnavailableError as error:
                if failure_kind(error.__cause__) not in _SILENCE:
                    self.note_answer()
                elif self._answered_at < began_at and not self.is_down:
                    self.is_down = True
                    self._on_change(False)
            else:
                self.note_answer()
            if self.is_suspect:
                await asyncio.sleep(self.patience.probe_interval_s)
