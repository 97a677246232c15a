"""One Redis server: the whole store, or a node of a cluster."""

from collections.abc import Sequence
from typing import Any, ClassVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

Key = str | bytes
# What a script of one key is called with: the key, then its arguments.
ScriptCall = Sequence[str | bytes | int | float]


class RedisNode(Redis):
    """A server, asked by redis-py's own client.

    What it has beside that is what `RedisCluster` has too, so that nobody needs to know which of
    the two the store is.

    Attributes:
        host: Where it is; empty for a socket file.
        address: The same with its port, or the file.
    """

    # Who hears nothing for so long tries the connection. A server that vanished is not written to.
    max_listening_idle_s: ClassVar[float] = 5.0

    def __init__(self, pool: BlockingConnectionPool) -> None:
        """Ask through `pool`, which is closed with the node."""
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        options = pool.connection_kwargs
        self.host: str = options.get("host", "")
        self.address = str(options.get("path") or f"{self.host}:{options.get('port')}")

    @property
    def nodes(self) -> tuple["RedisNode", ...]:
        """All nodes that may be asked."""
        return (self,)

    def nodes_of(self, keys: Sequence[Key]) -> tuple["RedisNode", ...]:
        """Return the nodes that have `keys`, as far as is known."""
        return (self,)

    async def all_nodes(self) -> tuple["RedisNode", ...]:
        """Return the nodes that have all keys together."""
        return (self,)

    def look_again(self) -> None:
        """Find out, in the background, whether keys lie elsewhere now: never."""

    def node_to_listen_at(self) -> "RedisNode":
        """Return a node that hears what is published on any of them."""
        return self

    async def eval_each(
        self, script: str, calls: Sequence[ScriptCall], *, raises: bool = True
    ) -> list[Any]:
        """Run a script of one key for each call, in one round trip; return what each returns.

        A refusal is raised, or stands in the list where `raises` is false.
        """
        async with self.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.eval(script, 1, *call)
            return await pipeline.execute(raise_on_error=raises)

    async def ask_over(self, *command: Any, **options: Any) -> Any:
        """Run a command on a key that is on its way to this node of a cluster."""
        async with self.pipeline(transaction=False) as pipeline:  # on one connection
            pipeline.execute_command("ASKING")
            pipeline.execute_command(*command, **options)
            _, answer = await pipeline.execute(raise_on_error=False)
        if isinstance(answer, Exception):
            raise answer
        return answer


def new_node(options: dict[str, Any], timeout_s: float, max_connections: int) -> RedisNode:
    """Return a client that gives up after `timeout_s`, not after redis-py's own ten seconds.

    One retry, as the first command on a kept connection finds out that the server was restarted.

    Args:
        options: Of a connection, as `redis.asyncio.connection.parse_url` names them.
        timeout_s: Of each wait: for a free connection, for a new one, for an answer.
        max_connections: Whoever needs one more waits.
    """
    defaults: dict[str, Any] = {
        "max_connections": max_connections,
        "timeout": timeout_s,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(ConstantBackoff(0.005), 1, (RedisConnectionError,)),
    }
    return RedisNode(BlockingConnectionPool(**(defaults | options)))
