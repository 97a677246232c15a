"""A Redis Cluster: each command goes to the node that has its key, wherever that is by now."""

import asyncio
import hashlib
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar, Literal, Self

import redis.exceptions as redis_errors
from redis.commands.core import BasicKeyCommands, SortedSetCommands
from redis.event import EventDispatcher

from generator_svc.cluster_map import Address, slot_of
from generator_svc.cluster_nodes import ClusterNodes
from generator_svc.redis_node import Key, RedisNode, ScriptCall

MAX_TRIES = 6  # of a command that is sent elsewhere; all of them end within any call's patience
TRY_AGAIN_S = 0.005  # pause while the keys of a command lie on two nodes, as its slot moves

# What leaves it open whether slots lie where they did.
_LOST = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ClusterDownError,
    OSError,
    asyncio.CancelledError,  # by whoever does not wait for a silent node
)
_KEY_AT = {"EVAL": 3, "EVALSHA": 3}  # behind the script and the number of keys


class RedisCluster(BasicKeyCommands, SortedSetCommands):
    """Asks the nodes of a cluster, each as a `RedisNode`: with the same patience as one server.

    Commands are those of one key, or of several with one hash tag. Nobody waits for another node
    than that of the key; where slots are is found out beside, whenever a node sends us elsewhere or
    does not answer.

    Args:
        seeds: Addresses that are asked first for the others.
        new_node: Returns the client of an address.
    """

    _is_async_client: Literal[True] = True  # for redis-py's types
    # Unlike with one server, others go on being written to while the one we listen at is silent.
    max_listening_idle_s: ClassVar[float] = 1.0

    def __init__(self, seeds: Sequence[Address], new_node: Callable[[Address], RedisNode]) -> None:
        self._event_dispatcher = EventDispatcher()  # for redis-py's types, too
        self._cluster = ClusterNodes(seeds, new_node)
        self._next_listener = random.randrange(1 << 16)  # so that generators spread

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._cluster.aclose()

    @property
    def nodes(self) -> tuple[RedisNode, ...]:
        """All nodes that may be asked."""
        return self._cluster.primaries

    def nodes_of(self, keys: Sequence[Key]) -> tuple[RedisNode, ...]:
        """Return the nodes that have `keys`, as far as is known."""
        owners = (self._cluster.owner(slot_of(key)) for key in keys)
        return tuple(dict.fromkeys(owner for owner in owners if owner is not None))

    async def all_nodes(self) -> tuple[RedisNode, ...]:
        """Return the nodes that have all keys together, in any order.

        Raises:
            RedisError, OSError: No node says which they are.
        """
        await self._cluster.until_known()
        return tuple(random.sample(self.nodes, len(self.nodes)))

    def look_again(self) -> None:
        """Find out, in the background, whether keys lie elsewhere now."""
        self._cluster.look_again()

    def node_to_listen_at(self) -> RedisNode:
        """Return a node that hears what is published on any of them; each time the next one."""
        self._next_listener += 1
        return self.nodes[self._next_listener % len(self.nodes)]

    def register_script(self, script: str) -> "ClusterScript":
        """Return the script as something to call, as redis-py's own clients do."""
        return ClusterScript(self, script)

    async def eval(self, script: str, num_keys: int, *keys_and_args: Any) -> Any:
        """Run a script at the node of its first key."""
        return await self.execute_command("EVAL", script, num_keys, *keys_and_args)

    async def eval_each(self, script: str, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run a script of one key for each call, in one round trip to each node, all at once.

        Raises:
            RedisError, OSError: One came to nothing; all have ended by then.
        """
        await self._cluster.until_known()
        places_by_node: dict[RedisNode, list[int]] = {}
        for place, call in enumerate(calls):
            places_by_node.setdefault(self._owner(slot_of(_key(call[0]))), []).append(place)
        found: list[Any] = [None] * len(calls)

        async def ask(node: RedisNode, places: list[int]) -> None:
            asked = [calls[place] for place in places]
            answers = await self._watched(node.eval_each(script, asked, raises=False))
            for place, answer in zip(places, answers, strict=True):
                found[place] = await self._final(answer, script, calls[place])

        outcomes = await asyncio.gather(
            *(ask(node, places) for node, places in places_by_node.items()),
            return_exceptions=True,
        )
        for error in outcomes:
            if error is not None:
                raise error
        return found

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        """Run a command at the node that has its key, or takes it over.

        Raises:
            RedisError, OSError: As redis-py's client; no redirection is among them.
        """
        await self._cluster.until_known()
        slot = slot_of(_key(command[_KEY_AT.get(command[0], 1)]))
        node, is_arriving = self._owner(slot), False
        trouble: Exception | None = None
        for _ in range(MAX_TRIES):
            run = node.ask_over if is_arriving else node.execute_command
            try:
                return await self._watched(run(*command, **options))
            except redis_errors.MovedError as error:
                node, is_arriving = self._cluster.at(_address(error, node)), False
                self._cluster.note_owner(slot, node)
            except redis_errors.AskError as error:
                node, is_arriving = self._cluster.at(_address(error, node)), True
            except redis_errors.TryAgainError as error:
                trouble = error
                await asyncio.sleep(TRY_AGAIN_S)
        raise trouble or redis_errors.ClusterDownError(f"slot {slot} was sent on {MAX_TRIES} times")

    async def _final(self, answer: Any, script: str, call: ScriptCall) -> Any:
        """Return what a script of one key answered, in the end: its key may have moved."""
        if isinstance(answer, redis_errors.AskError | redis_errors.TryAgainError):
            return await self.eval(script, 1, *call)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _watched(self, call: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await call
        except _LOST:
            self.look_again()
            raise

    def _owner(self, slot: int) -> RedisNode:
        owner = self._cluster.owner(slot)
        if owner is None:
            self.look_again()
            raise redis_errors.ClusterDownError(f"slot {slot} is served by no node")
        return owner


class ClusterScript:
    """A script that each node learns when it is first run there."""

    def __init__(self, client: RedisCluster, text: str) -> None:
        self._client = client
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run it at the node of its first key."""
        operands = (len(keys), *keys, *args)
        try:
            return await self._client.execute_command("EVALSHA", self._digest, *operands)
        except redis_errors.NoScriptError:
            return await self._client.execute_command("EVAL", self._text, *operands)


def _key(part: Any) -> Key:
    if not isinstance(part, str | bytes):
        raise TypeError(f"a key must be text or bytes, got {type(part).__name__}")
    return part


def _address(error: redis_errors.AskError, asked: RedisNode) -> Address:
    host: str = error.host
    return (asked.host if host in ("", "?") else host, error.port)
