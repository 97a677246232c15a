"""Work that one of several processes does at a time: a key in Redis that expires with its owner."""

import secrets
import time

from generator_svc.redis_client import RedisClient
from generator_svc.store_health import StoreHealth

# KEYS[1] the lease. ARGV: the owner's name, milliseconds until it ends. Returns 1 if it is ours;
# one that expired and that nobody took since is taken again.
RENEW = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# ARGV: the owner's name, milliseconds for which nobody else is to take it; 0: it is free at once.
RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('UNLINK', KEYS[1])
else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""


class LeaseLostError(Exception):
    """Another process has it by now: this one was silent for too long."""


class Lease:
    """One process's hold on a key; every method raises StoreUnavailableError as calls of Redis do.

    Args:
        client: Redis.
        health: Guards each call.
        key: Names the work.
        ttl_s: Another process takes over after so long a silence.
    """

    def __init__(self, client: RedisClient, health: StoreHealth, key: str, ttl_s: float) -> None:
        self._redis = client
        self._health = health
        self._key = key
        self._ttl_s = ttl_s
        self._name = secrets.token_hex(8)
        self._renew_at = 0.0

    @property
    def renewal_s(self) -> float:
        """Its owner must come by so often."""
        return self._ttl_s / 3

    async def take(self) -> bool:
        """Take it if it is free; say whether it is ours."""
        began_at = time.monotonic()
        async with self._health.clearing(self._key):
            is_ours = await self._redis.set(self._key, self._name, nx=True, px=_ms(self._ttl_s))
        self._renew_at = began_at + self.renewal_s
        return bool(is_ours)

    async def keep(self, *, is_sure: bool = False) -> None:
        """Renew it where that is due, or at any rate if `is_sure`.

        Raises:
            LeaseLostError: Somebody else has it.
        """
        began_at = time.monotonic()
        if not is_sure and began_at < self._renew_at:
            return
        async with self._health.clearing(self._key):
            is_ours = await self._redis.eval(RENEW, 1, self._key, self._name, _ms(self._ttl_s))
        if not is_ours:
            raise LeaseLostError
        self._renew_at = began_at + self.renewal_s

    async def release(self, pause_s: float = 0.0) -> None:
        """Leave it to others, at once or after a pause; nothing happens if it is not ours."""
        pause = _ms(pause_s) if pause_s else 0
        async with self._health.clearing(self._key):
            await self._redis.eval(RELEASE, 1, self._key, self._name, pause)


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))
