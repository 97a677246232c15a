"""Opens the profile store as the settings say, and finds out whether it is what they say."""

import redis.exceptions as redis_errors

from generator_svc.cluster_nodes import slot_ranges
from generator_svc.redis_calls import WrongModeError
from generator_svc.redis_client import CLUSTER_SETTING, URL_SETTING, RedisClient, connect
from generator_svc.redis_cluster import RedisCluster
from generator_svc.redis_node import RedisNode
from generator_svc.redis_password import read_password_file
from generator_svc.settings import GeneratorSettings
from svc_common.settings import SettingsError


def new_store_client(settings: GeneratorSettings, timeout_s: float) -> RedisClient:
    """Return a client of the profile store that gives up after `timeout_s`.

    Raises:
        SettingsError: URL or password file cannot be used.
    """
    return connect(
        settings.redis_url,
        timeout_s,
        password=read_password_file(settings.redis_password_file),
        is_cluster=settings.redis_cluster,
    )


async def check_mode(client: RedisClient) -> None:
    """Ask the store once whether it is what the settings say.

    A store that does not answer yet is met later: calls are UNAVAILABLE then, and say why. One node
    that has all slots may be asked as a server by itself.

    Raises:
        SettingsError: It is not; the client is closed.
    """
    try:
        if isinstance(client, RedisCluster):
            await client.all_nodes()
            return
        primaries = {one.primary for one in await slot_ranges(client)}
    except WrongModeError as error:
        if isinstance(client, RedisNode):
            return
        await client.aclose()
        rule = f"must be false, as no node of a Redis Cluster is at {URL_SETTING}"
        raise SettingsError(f"{CLUSTER_SETTING}: {rule}, got true") from error
    except (redis_errors.RedisError, OSError):
        return
    if len(primaries) > 1:
        await client.aclose()
        rule = f"must be true, as {URL_SETTING} names a Redis Cluster of {len(primaries)} primaries"
        raise SettingsError(f"{CLUSTER_SETTING}: {rule}, got false")
