"""Knows of one Redis server whether it answers, and asks one that does not until it does."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from generator_svc.redis_calls import FailureKind, answering, failure_kind
from generator_svc.redis_node import RedisNode
from svc_common.errors import StoreUnavailableError

# A connection that fails so says that there is no answer to be had, not what the answer is.
SILENCE: tuple[FailureKind, ...] = ("silent", "unreachable", "loading")


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


class Pulse:
    """Of one server: is it suspect, is it down?

    Attributes:
        is_suspect: It may be down; what can be done without is not asked for.
        is_down: It answers nobody.
    """

    def __init__(
        self,
        node: RedisNode,
        patience: Patience,
        on_change: Callable[[bool], None],
        on_silence: Callable[[], bool],
    ) -> None:
        """Make one that takes the server for well.

        Args:
            node: The server.
            patience: How long an answer may take.
            on_change: Told whether it is down, when that changes.
            on_silence: Told each time that it does not answer a ping; says whether it is still
                needed.
        """
        self.is_suspect = False
        self.is_down = False
        self._node = node
        self._patience = patience
        self._on_change = on_change
        self._on_silence = on_silence
        self._answered_at = time.monotonic()
        self._probing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Stop asking whether it is back."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait((self._probing,))

    def note_answer(self) -> None:
        """Hear that it answered somebody."""
        self._answered_at = time.monotonic()
        self.is_suspect = False
        if self.is_down:
            self.is_down = False
            self._on_change(False)

    def suspect(self, began_at: float) -> None:
        """Begin to ping, unless somebody was answered since `began_at`."""
        if not (self.is_suspect or self._answered_at > began_at):
            self._begin_probing()

    async def drop_idle_connections(self) -> None:
        """Make new ones when they are needed: the address may belong to another server by now."""
        await self._node.connection_pool.disconnect(inuse_connections=False)

    async def check(self) -> None:
        """Ping it: if neither that is answered nor anybody else, it is suspect, or down if it was.

        One ping alone proves little: its connection may have been the only one that broke.
        """
        began_at = time.monotonic()
        try:
            async with answering(self._patience.timeout_s, is_optional=True):
                await self._node.ping()
        except StoreUnavailableError as error:
            if failure_kind(error.__cause__) not in SILENCE:
                self.note_answer()
            elif self._answered_at < began_at:
                self._note_silence()
        else:
            self.note_answer()

    def _note_silence(self) -> None:
        if not self.is_suspect:
            self._begin_probing()
        elif not self.is_down:
            self.is_down = True
            self._on_change(True)

    def _begin_probing(self) -> None:
        self.is_suspect = True
        if self._probing is None or self._probing.done():
            self._probing = asyncio.ensure_future(self._probe())

    async def _probe(self) -> None:
        """Ping until somebody is answered, or nobody needs it."""
        while self.is_suspect:
            await self.check()
            if self.is_suspect:
                if not self._on_silence():
                    self.note_answer()  # nobody is to think of it as down
                    return
                await asyncio.sleep(self._patience.probe_interval_s)
