"""A client of one Redis server or of a Redis Cluster; which of the two, few need to know."""

from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import parse_url
from redis.credentials import CredentialProvider

from generator_svc.cluster_map import Address
from generator_svc.redis_cluster import RedisCluster
from generator_svc.redis_node import RedisNode, new_node
from svc_common.settings import SettingsError

RedisClient = RedisNode | RedisCluster

_PORT = 6379
URL_SETTING = "GENERATOR_REDIS_URL"
CLUSTER_SETTING = "GENERATOR_REDIS_CLUSTER"


def connect(
    url: str,
    timeout_s: float,
    max_connections: int = 32,
    password: CredentialProvider | None = None,
    *,
    is_cluster: bool = False,
) -> RedisClient:
    """Return a client that gives up after `timeout_s`; it connects when it is first asked.

    Args:
        url: Where it is; of a cluster one node or more, with commas between.
        timeout_s: See `redis_node.new_node`.
        max_connections: To each node.
        password: Then the URL must name neither user nor password.
        is_cluster: Whether it is a Redis Cluster.

    Raises:
        SettingsError: The URL names no server, or no cluster's nodes where it should.
    """
    common = {"credential_provider": password}
    if not is_cluster:
        return new_node(common | _parse_url(url), timeout_s, max_connections)
    seeds, options = _parse_seeds(url)

    def open_node(address: Address) -> RedisNode:
        host, port = address
        at = common | options | {"host": host, "port": port}
        return new_node(at, timeout_s, max_connections)

    return RedisCluster(seeds, open_node)


def _parse_url(url: str) -> dict[str, Any]:
    """Return the options of a connection to one server.

    Raises:
        SettingsError: It names none; the text does not quote it, as it may hold a password.
    """
    try:
        return dict(parse_url(url))
    except ValueError as error:
        form = "redis://host:port/db, rediss://host:port/db or unix:///path"
        rule = f"must be {form}; several nodes need {CLUSTER_SETTING}=true"
        raise SettingsError(f"{URL_SETTING}: {rule}") from error


def _parse_seeds(url: str) -> tuple[list[Address], dict[str, Any]]:
    """Return the nodes that a URL names, and the other options of a connection to each.

    Raises:
        SettingsError: It names none; the text does not quote it, as it may hold a password.
    """
    form = "redis://host:port,host:port or rediss://..."
    rule = f"{URL_SETTING}: must be {form} where {CLUSTER_SETTING} is true"
    scheme, mark, _ = url.partition("://")
    if scheme not in ("redis", "rediss") or not mark:
        raise SettingsError(f"{rule}, got {f'{scheme}://...' if mark else 'no scheme'}")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SettingsError(rule) from error
    if "@" in url.replace(parts.netloc, "", 1):  # one of / ? # tore it apart: no host to quote
        raise SettingsError(f"{rule}, with a password's / ? # @ written as %2F %3F %23 %40")
    user, at, hosts = parts.netloc.rpartition("@")
    seeds: list[Address] = []
    options: dict[str, Any] = {}
    for host in hosts.split(","):
        try:
            options = dict(parse_url(parts._replace(netloc=f"{user}{at}{host.strip()}").geturl()))
        except ValueError as error:
            raise SettingsError(f"{rule}, got {host!r} among the nodes") from error
        if not options.get("host"):
            raise SettingsError(f"{rule}, got {host!r} among the nodes")
        seeds.append((options.pop("host"), options.pop("port", _PORT)))
    if parts.path.strip("/") not in ("", "0") or options.pop("db", 0):
        rule = "must name nodes and then no database but 0, the only one of a Redis Cluster"
        raise SettingsError(f"{URL_SETTING}: {rule}")
    return seeds, options
