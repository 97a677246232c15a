"""Which users of a tenant have a profile, in the order of their ids."""

import redis.exceptions as redis_errors

from generator_svc.profile_format import profile_key, user_tag, users_key
from generator_svc.redis_client import RedisClient
from svc_common.errors import ProfileDamagedError

_MAX_USER_ID_BYTES = 128


class UserIndex:
    """A sorted set per tenant, all scores 0, so that it is ordered by user id.

    In a Redis Cluster it is in another slot than the users' own keys, so no script can change both.
    It is written before a new profile and corrected after each creation and deletion. A
    user without a profile may stand in it for a moment; whoever lists skips those.

    Every method raises ProfileDamagedError where another writer put something else there.
    """

    def __init__(self, client: RedisClient) -> None:
        self._redis = client

    async def add(self, tenant: str, user_id: str) -> None:
        try:
            await self._redis.zadd(users_key(tenant), {user_id: 0})
        except redis_errors.ResponseError as error:
            raise _index_error(tenant, error) from error

    async def correct(self, tenant: str, user_id: str) -> None:
        """Make the index say whether the profile exists, whoever creates or deletes it meanwhile.

        Each writer looks again after it wrote, so the last look sees the last state.
        """
        key = profile_key(user_tag(tenant, user_id))
        exists = await self._redis.exists(key)
        is_right = False
        while not is_right:
            if exists:
                await self.add(tenant, user_id)
            else:
                await self._remove(tenant, user_id)
            was, exists = exists, await self._redis.exists(key)
            is_right = was == exists

    async def page(self, tenant: str, size: int, after: bytes | None) -> list[bytes]:
        """Return up to `size` user ids behind `after`, or the first ones."""
        start = b"-" if after is None else b"(" + after
        try:
            members = await self._redis.zrangebylex(
                users_key(tenant), start, b"+", start=0, num=size
            )
        except redis_errors.ResponseError as error:
            raise _index_error(tenant, error) from error
        return [m if isinstance(m, bytes) else m.encode() for m in members]

    async def _remove(self, tenant: str, user_id: str) -> None:
        try:
            await self._redis.zrem(users_key(tenant), user_id)
        except redis_errors.ResponseError as error:
            raise _index_error(tenant, error) from error


def user_id_of(member: bytes) -> str | None:
    """Return the user id that a member of an index is, None if it cannot be one."""
    try:
        return member.decode("ascii") if len(member) <= _MAX_USER_ID_BYTES else None
    except UnicodeDecodeError:
        return None


def _index_error(tenant: str, error: redis_errors.ResponseError) -> Exception:
    if not str(error).startswith("WRONGTYPE"):
        return error
    return ProfileDamagedError(
        f"tenant: the stored list of users of {tenant!r} is damaged (it is no sorted set);"
        " delete its key"
    )
