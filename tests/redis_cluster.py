"""A real Redis Cluster of the tests' server processes, which tests may break."""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from tests.conftest import RedisServer

NUM_PRIMARIES = 3
NUM_SLOTS = 16384
# What is not about waiting in these is as deployed; docs/operate.md says so.
SETTINGS = {
    "cluster-enabled": "yes",
    "cluster-require-full-coverage": "no",
    "cluster-node-timeout": "1500",
    "repl-diskless-sync-delay": "0",
}


@dataclass
class Cluster:
    """Three primaries, each with a third of the slots, and replicas of the first ones."""

    primaries: list[RedisServer]
    replicas: list[RedisServer] = field(default_factory=list)

    @property
    def servers(self) -> list[RedisServer]:
        return self.primaries + self.replicas

    @property
    def url(self) -> str:
        return f"redis://{','.join(f'127.0.0.1:{its.port}' for its in self.primaries)}/0"

    def owner(self, key: str) -> RedisServer:
        """Return who has a key, unless a test moved its slot."""
        return self.primaries[key_slot(key.encode()) * NUM_PRIMARIES // NUM_SLOTS]

    def keys(self) -> dict[int, list[str]]:
        """Return all keys of each primary, by its port."""
        return {its.port: sorted(ask(its, "KEYS", "*")) for its in self.primaries}

    def flush(self) -> None:
        for server in self.primaries:
            ask(server, "FLUSHALL")
            ask(server, "SCRIPT", "FLUSH")


def ask(server: RedisServer, *command: str | int) -> Any:
    with redis.Redis(port=server.port, decode_responses=True) as client:
        return client.execute_command(*command)


def new_cluster(new_redis_server: Callable[..., RedisServer], num_replicas: int = 0) -> Cluster:
    """Start servers and join them; return when each knows all."""
    buses = free_ports(NUM_PRIMARIES + num_replicas)
    servers = [new_redis_server(**SETTINGS, **{"cluster-port": str(bus)}) for bus in buses]
    cluster = Cluster(servers[:NUM_PRIMARIES], servers[NUM_PRIMARIES:])
    starts = [-(-number * NUM_SLOTS // NUM_PRIMARIES) for number in range(NUM_PRIMARIES + 1)]
    for number, server in enumerate(cluster.primaries):
        ask(server, "CLUSTER", "ADDSLOTSRANGE", starts[number], starts[number + 1] - 1)
    for number, server in enumerate(servers):
        ask(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for server in servers:
        for other, bus in zip(servers, buses, strict=True):
            if other is not server:
                ask(server, "CLUSTER", "MEET", "127.0.0.1", other.port, bus)
    _until(lambda: all(_knows_all(its, len(servers)) for its in servers), "the nodes to meet")
    for primary, replica in zip(cluster.primaries, cluster.replicas, strict=False):
        ask(replica, "CLUSTER", "REPLICATE", ask(primary, "CLUSTER", "MYID"))
        _until(lambda its=replica: _follows(its), "a replica to follow")  # type: ignore[misc]
    return cluster


def _knows_all(server: RedisServer, num_nodes: int) -> bool:
    nodes = ask(server, "CLUSTER", "NODES").splitlines()
    is_met = len(nodes) == num_nodes and not any("handshake" in its for its in nodes)
    ranges = ask(server, "CLUSTER", "SLOTS")
    has_all = len(ranges) == NUM_PRIMARIES and all(primary[0] for _, _, primary, *_ in ranges)
    return is_met and has_all and "cluster_state:ok" in ask(server, "CLUSTER", "INFO")


def _follows(server: RedisServer) -> bool:
    info = ask(server, "INFO", "replication")
    return bool(info["role"] == "slave" and info["master_link_status"] == "up")


def _until(condition: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + 60
    while not condition():
        if time.monotonic() > give_up_at:
            pytest.fail(f"waited in vain for {what}")
        time.sleep(0.1)  # a cluster that forms offers no event to wait on


def free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports
