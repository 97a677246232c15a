"""Which users of a tenant have a profile, in the order of their ids."""

from redis.asyncio import Redis

from generator_svc.profile_format import profile_key, user_tag, users_key


class UserIndex:
    """A sorted set per tenant, all scores 0, so that it is ordered by user id.

    In a Redis Cluster it is in another slot than the users' own keys, so no script can change
    both. It is written before a new profile and corrected after each creation and deletion. A
    user without a profile may stand in it for a moment; whoever lists skips those.
    """

    def __init__(self, client: Redis) -> None:
        self._redis = client

    async def add(self, tenant: str, user_id: str) -> None:
        await self._redis.zadd(users_key(tenant), {user_id: 0})

    async def correct(self, tenant: str, user_id: str) -> None:
        """Make the index say whether the profile exists, whoever creates or deletes it meanwhile.

        Each writer looks again after it wrote, so the last look sees the last state.
        """
        key = profile_key(user_tag(tenant, user_id))
        exists = await self._redis.exists(key)
        is_right = False
        while not is_right:
            if exists:
                await self._redis.zadd(users_key(tenant), {user_id: 0})
            else:
                await self._redis.zrem(users_key(tenant), user_id)
            was, exists = exists, await self._redis.exists(key)
            is_right = was == exists

    async def page(self, tenant: str, size: int, after: str) -> list[str]:
        """Return up to `size` user ids behind `after`; an empty `after` is the beginning."""
        start = f"({after}" if after else "-"
        members = await self._redis.zrangebylex(users_key(tenant), start, "+", start=0, num=size)
        return [member.decode() if isinstance(member, bytes) else member for member in members]
