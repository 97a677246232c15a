"""The nodes of a Redis Cluster and which slots they have, kept up to date in the background."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import redis.exceptions as redis_errors

from generator_svc.cluster_map import NUM_SLOTS, Address, SlotRange, parse_ranges
from generator_svc.redis_calls import WrongModeError
from generator_svc.redis_node import RedisNode

logger = logging.getLogger(__name__)

LOOK_PAUSE_S = 0.2  # between two questions where slots are
LEAVE_S = 2.0  # calls that a node was asked are answered by then


class ClusterNodes:
    """Learns from any node where slots are, at first and whenever it is told to look again.

    Args:
        seeds: Addresses that are asked first, and when nobody else answers.
        new_node: Returns the client of an address.
    """

    def __init__(self, seeds: Sequence[Address], new_node: Callable[[Address], RedisNode]) -> None:
        self._new_node = new_node
        self._known: dict[Address, RedisNode] = {}
        self._seeds = tuple(self.at(address) for address in seeds)
        self._owners: list[RedisNode | None] = []  # by slot; empty until they are known
        self._primaries: tuple[RedisNode, ...] = ()
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = -LOOK_PAUSE_S
        self._trouble: Exception | None = None  # why the last look came to nothing
        self._leaving: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def aclose(self) -> None:
        """Close all connections."""
        self._is_closed = True
        tasks = [*self._leaving, *filter(None, [self._looking])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(node.aclose() for node in self._known.values()))

    @property
    def primaries(self) -> tuple[RedisNode, ...]:
        """The nodes that have slots, or the seeds until these are known."""
        return self._primaries or self._seeds

    def at(self, address: Address) -> RedisNode:
        """Return the node at an address, of which nothing need be known."""
        node = self._known.get(address)
        if node is None:
            node = self._known[address] = self._new_node(address)
        return node

    def owner(self, slot: int) -> RedisNode | None:
        """Return the node that has a slot, as far as is known; None if none has it."""
        return self._owners[slot] if self._owners else self._seeds[0]

    def note_owner(self, slot: int, node: RedisNode) -> None:
        """Hear from a node that another one has the slot."""
        self._owners[slot] = node
        self.look_again()

    def look_again(self) -> None:
        """Find out, in the background, where slots are now."""
        if not self._is_closed and (self._looking is None or self._looking.done()):
            self._looking = asyncio.ensure_future(self._look())

    async def until_known(self) -> None:
        """Wait until it has once been learned where slots are.

        Raises:
            RedisError, OSError: No node says it, as it was just found out.
        """
        if self._owners:
            return
        is_recent = asyncio.get_running_loop().time() < self._looked_at + LOOK_PAUSE_S
        self.look_again()
        if self._looking is not None and not (is_recent and self._trouble):
            await asyncio.wait((self._looking,))
        if not self._owners:
            trouble = self._trouble or redis_errors.ConnectionError("the client is closed")
            raise trouble.with_traceback(None)  # which would grow each time

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._looked_at + LOOK_PAUSE_S - loop.time()))
        try:
            ranges = await self._ask()
        except (redis_errors.RedisError, OSError) as error:
            if type(error) is not type(self._trouble):
                values = {"error": type(error).__name__, "reason": str(error)}
                logger.warning("nodes of the profile store are not known", extra=values)
            self._trouble = error
        else:
            self._trouble = None
            self._take(ranges)
        finally:
            self._looked_at = loop.time()

    async def _ask(self) -> list[SlotRange]:
        """Return where slots are, as the first node says that answers.

        Raises:
            RedisError, OSError: None does; why not the last one.
        """
        trouble: Exception = redis_errors.ConnectionError("there is no node to ask")
        shuffled = random.sample(self._primaries, len(self._primaries))
        for node in dict.fromkeys((*shuffled, *self._seeds)):
            try:
                ranges = await slot_ranges(node)
            except (redis_errors.RedisError, OSError) as error:
                trouble = error
                continue
            if ranges:
                return ranges
            trouble = redis_errors.ClusterDownError("the node that was asked has met no other")
        raise trouble

    def _take(self, ranges: list[SlotRange]) -> None:
        owners: list[RedisNode | None] = [None] * NUM_SLOTS
        for one in ranges:
            owners[one.slots] = [self.at(one.primary)] * one.num_slots
        before = {node.address for node in self._primaries}
        self._owners = owners
        self._primaries = tuple(dict.fromkeys(self.at(one.primary) for one in ranges))
        needed = {*self._primaries, *self._seeds}
        for address in [its for its, node in self._known.items() if node not in needed]:
            self._let_go(self._known.pop(address))
        names = {node.address for node in self._primaries}
        if names != before:
            logger.info("nodes of the profile store", extra={"nodes": sorted(names)})

    def _let_go(self, node: RedisNode) -> None:
        """Close a node that has no slots any more, once what it was asked is answered."""

        async def close() -> None:
            try:
                await asyncio.sleep(LEAVE_S)
            finally:
                await node.aclose()

        task = asyncio.ensure_future(close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


async def slot_ranges(node: RedisNode) -> list[SlotRange]:
    """Return where slots are, as `node` knows it.

    Raises:
        WrongModeError: It is a server by itself.
        RedisError, OSError: As redis-py's client.
    """
    execute: Any = node.execute_command
    try:
        return parse_ranges(await execute("CLUSTER", "SLOTS"), node.host)
    except redis_errors.ResponseError as error:
        if "cluster support disabled" not in str(error):
            raise
        hint = "it is no Redis Cluster, set GENERATOR_REDIS_CLUSTER=false"
        raise WrongModeError(hint) from error
    except ValueError as error:
        raise redis_errors.InvalidResponse(str(error)) from error
