"""Knows whether Redis answers, so that nobody waits for one that does not."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from generator_svc.redis_calls import FailureKind, answering, failure_kind, mode_hint
from generator_svc.redis_client import RedisClient
from generator_svc.redis_node import Key, RedisNode
from generator_svc.store_pulse import SILENCE, Patience, Pulse
from svc_common.errors import StoreUnavailableError

logger = logging.getLogger(__name__)


class StoreHealth:
    """Guards every call of Redis.

    Redis is suspect once a call has waited `quick_s` and no call was answered meanwhile, or a
    connection failed. From then on it is pinged. It is down when a ping fails and again nobody was
    answered meanwhile; then calls fail at once instead of waiting. Whatever answer ends both: a
    refusal is one, and so is the answer of a Redis that is only busy.

    Of a cluster each node is judged by itself: a call names the keys that it is about, and only the
    nodes that have them count.
    """

    def __init__(
        self,
        client: RedisClient,
        patience: Patience,
        on_failure: Callable[[FailureKind], None],
        on_change: Callable[[bool], None],
        on_return: Callable[[], None],
    ) -> None:
        """Make a guard that takes Redis for well.

        Args:
            client: Whose nodes are watched.
            patience: How long calls may wait.
            on_failure: Told of each call that came to nothing, and why.
            on_change: Told whether all nodes are up, when that changes.
            on_return: Told that a node is down no more.
        """
        self.patience = patience
        self._client = client
        self._on_failure = on_failure
        self._on_change = on_change
        self._on_return = on_return
        self._pulses: dict[RedisNode, Pulse] = {}
        self._was_up = True
        self._has_told_mode = False

    async def close(self) -> None:
        """Stop asking whether Redis is back."""
        await asyncio.gather(*(pulse.close() for pulse in self._pulses.values()))

    @property
    def has_down(self) -> bool:
        """Tell whether a node answers nobody."""
        return any(pulse.is_down for pulse in self._pulses.values())

    def is_suspect(self, key: Key) -> bool:
        """Tell whether what has `key` may be down."""
        return any(pulse.is_suspect for pulse in self._pulses_of((key,)))

    def is_down(self, key: Key) -> bool:
        """Tell whether what has `key` answers nobody."""
        return any(pulse.is_down for pulse in self._pulses_of((key,)))

    @asynccontextmanager
    async def answering(self, *keys: Key, is_optional: bool = False) -> AsyncIterator[None]:
        """Run calls of Redis about `keys` in the body.

        Args:
            keys: What the body reads or writes.
            is_optional: What Redis holds can be done without: see `redis_calls.answering`. It gets
                `quick_s`, and nothing while Redis is suspect.

        Raises:
            StoreUnavailableError: Redis is down, or the body did not get its answers in time.
        """
        pulses = self._pulses_of(keys)
        limit = self._limit(pulses, is_optional=is_optional)
        async with self._counted(pulses, limit, is_optional=is_optional):
            yield

    @asynccontextmanager
    async def clearing(self, *keys: Key) -> AsyncIterator[None]:
        """Run calls as `answering` does, that must be done, whatever Redis holds.

        Raises:
            StoreUnavailableError: They were not.
        """
        pulses = self._pulses_of(keys)
        async with self._counted(pulses, self._limit(pulses, is_optional=False), is_optional=True):
            yield

    async def has_answer_of(self, node: RedisNode) -> bool:
        """Ping all nodes, so that it is known of each whether it is down; say it of `node`."""
        pulses = [self._pulse(its) for its in dict.fromkeys((node, *self._client.nodes))]
        await asyncio.gather(*(pulse.check() for pulse in pulses))
        await asyncio.gather(*(pulse.check() for pulse in pulses if pulse.is_suspect))
        return not pulses[0].is_suspect

    @asynccontextmanager
    async def _counted(
        self, pulses: Sequence[Pulse], timeout_s: float, *, is_optional: bool
    ) -> AsyncIterator[None]:
        began_at = time.monotonic()
        loop = asyncio.get_running_loop()
        alarm = loop.call_later(self.patience.quick_s, _suspect, pulses, began_at)
        try:
            async with answering(timeout_s, is_optional=is_optional):
                yield
        except StoreUnavailableError as error:
            await self._note_failure(pulses, error.__cause__, began_at)
            raise
        finally:
            alarm.cancel()
        for pulse in pulses:
            pulse.note_answer()

    def _limit(self, pulses: Sequence[Pulse], *, is_optional: bool) -> float:
        """Return how long a call may wait.

        Raises:
            StoreUnavailableError: It need not begin.
        """
        if any(one.is_down or (is_optional and one.is_suspect) for one in pulses):
            self._on_failure("down")
            raise StoreUnavailableError(
                "profile store: does not answer; it is asked again every"
                f" {self.patience.probe_interval_s} s",
                retry_after_s=1.0,
            )
        return self.patience.quick_s if is_optional else self.patience.timeout_s

    async def _note_failure(
        self, pulses: Sequence[Pulse], cause: BaseException | None, began_at: float
    ) -> None:
        kind = failure_kind(cause)
        self._on_failure(kind)
        hint = mode_hint(cause)
        if hint and not self._has_told_mode:
            self._has_told_mode = True
            logger.error("profile store is not what the settings say", extra={"reason": hint})
        if kind in SILENCE:
            _suspect(pulses, began_at)
            return
        if len(pulses) == 1:  # of several nobody knows who refused
            pulses[0].note_answer()
        if kind == "read_only":
            await asyncio.gather(*(pulse.drop_idle_connections() for pulse in pulses))

    def _pulses_of(self, keys: Sequence[Key]) -> list[Pulse]:
        return [self._pulse(node) for node in self._client.nodes_of(keys)]

    def _pulse(self, node: RedisNode) -> Pulse:
        pulse = self._pulses.get(node)
        if pulse is None:
            self._forget_nodes()
            pulse = Pulse(node, self.patience, self._note_change, lambda: self._is_missed(node))
            self._pulses[node] = pulse
        return pulse

    def _forget_nodes(self) -> None:
        """Drop what is known of nodes that the cluster has no more; see also `_is_missed`."""
        for node in [its for its, pulse in self._pulses.items() if not pulse.is_suspect]:
            if node not in self._client.nodes:
                del self._pulses[node]

    def _is_missed(self, node: RedisNode) -> bool:
        """Have looked where a silent node's keys lie now; say whether it still has any."""
        self._client.look_again()
        return node in self._client.nodes

    def _note_change(self, is_down: bool) -> None:
        is_up = not self.has_down
        if is_up != self._was_up:
            self._was_up = is_up
            self._on_change(is_up)
        if not is_down:
            self._on_return()


def _suspect(pulses: Sequence[Pulse], began_at: float) -> None:
    for pulse in pulses:
        pulse.suspect(began_at)
