"""Hears of the profiles that any process changes, so that copies of them can be dropped."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import redis.exceptions as redis_errors
from redis.asyncio.client import PubSub

from generator_svc.profile_format import CHANGES_CHANNEL, ERASURES_CHANNEL
from generator_svc.redis_calls import raise_lost_cancel
from generator_svc.redis_client import RedisClient
from generator_svc.redis_node import RedisNode

logger = logging.getLogger(__name__)


class ChangeListener:
    """Subscribes on a connection of its own, for as long as `run` runs.

    Attributes:
        is_listening: Set while changes are heard of.
    """

    def __init__(
        self,
        client: RedisClient,
        has_answer_of: Callable[[RedisNode], Awaitable[bool]],
        on_change: Callable[[str], None],
        on_erasure: Callable[[bytes], None],
        on_gap: Callable[[], None],
        *,
        reconnect_s: float = 0.5,
    ) -> None:
        """Make a listener.

        Args:
            client: Where to subscribe: in a cluster at any node, which hears the others.
            has_answer_of: Says whether a node answers.
            on_change: Told the tag of a user whose profile changed.
            on_erasure: Told for whom caches are to be cleared, by `subject_of`.
            on_gap: Told that changes may have been missed, when listening begins (again).
            reconnect_s: Pause before a lost connection is made again.
        """
        self.is_listening = asyncio.Event()
        self._client = client
        self._has_answer_of = has_answer_of
        self._on_change = on_change
        self._on_erasure = on_erasure
        self._on_gap = on_gap
        self._reconnect_s = reconnect_s
        self._num_failures = 0  # in a row

    async def run(self) -> None:
        """Listen until cancelled, and reconnect as often as it takes."""
        while True:
            raise_lost_cancel()
            node = self._client.node_to_listen_at()
            try:
                async with node.pubsub() as subscription:
                    await subscription.subscribe(CHANGES_CHANNEL, ERASURES_CHANNEL)
                    await self._listen(node, subscription)
            except (redis_errors.RedisError, OSError) as error:
                self._note_failure(error)
            finally:
                self.is_listening.clear()
            await asyncio.sleep(self._reconnect_s)

    def _note_failure(self, error: Exception) -> None:
        """Log that nothing is heard, as a warning once another try has failed, too.

        A process that begins is often too busy for its first one.
        """
        self._num_failures = 1 if self.is_listening.is_set() else self._num_failures + 1
        values = {"error": type(error).__name__, "reconnect_s": self._reconnect_s}
        level = logging.INFO if self._num_failures == 1 else logging.WARNING
        logger.log(level, "profile changes not heard", extra=values)

    async def _listen(self, node: RedisNode, subscription: PubSub) -> None:
        is_tried = False
        while True:
            raise_lost_cancel()
            idle_s = self._client.max_listening_idle_s
            message = await subscription.get_message(timeout=idle_s)
            if node not in self._client.nodes:
                raise redis_errors.ConnectionError("the node has no slots any more, or has left")
            if message is None:
                # A peer that vanished sends no end: ask, and expect some answer by the next round.
                if is_tried:
                    raise redis_errors.ConnectionError("no answer to a ping")
                await subscription.ping()
            else:
                # A server that loads its data lets us listen, but not read: what is kept is better
                # than nothing until it does.
                if message["type"] == "subscribe" and not await self._has_answer_of(node):
                    raise redis_errors.ConnectionError("no answer but a subscription")
                self._take(message["type"], message["channel"].decode(), message["data"])
            is_tried = message is None

    def _take(self, kind: str, channel: str, data: bytes) -> None:
        if kind == "subscribe" and channel == ERASURES_CHANNEL:  # the last of the two
            # Not only at first: redis-py also reconnects by itself.
            self._on_gap()
            self.is_listening.set()
        elif kind == "message" and channel == CHANGES_CHANNEL:
            self._on_change(data.decode(errors="replace"))
        elif kind == "message":
            try:
                self._on_erasure(bytes.fromhex(data.decode()))
            except ValueError:
                logger.warning("message of a stranger", extra={"channel": channel})
