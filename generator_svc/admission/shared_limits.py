"""What tenants use of their limits in all generator processes together, kept in Redis."""

import uuid
from dataclasses import dataclass
from typing import Literal

from generator_svc.admission.limits import TenantLimits
from generator_svc.redis_calls import answering
from generator_svc.redis_client import RedisClient

TIMEOUT_S = 0.03  # of a question; without an answer this process decides alone
LEASE_S = 30.0  # a process that is silent for longer has no running answers
_BUCKET_MS = 120_000  # an untouched bucket has long been full

# Counts a request of one tenant, or its end. Keys hold the tenant's name and nothing of its users.
#
# KEYS[1] hash: running answers by process, as "count:milliseconds until it is believed".
# KEYS[2] hash of the bucket: tokens used and not forgiven, and since when.
# ARGV: process, its running answers afterwards, tokens (below 0: given back), most answers or 0,
# tokens a minute or 0, milliseconds of a lease, milliseconds of the bucket, 1 to check limits.
# Returns {'ok', 0}, {'running', answers of all processes} or {'tokens', milliseconds to wait};
# nothing is counted if limits are passed.
_MOVE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local process, mine, tokens = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local most, rate, checks = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[8] == '1'
local others = 0
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  if entries[i] ~= process then
    local count, until_ms = string.match(entries[i + 1], '^(%d+):(%d+)$')
    if count == nil or tonumber(until_ms) < now then
      redis.call('HDEL', KEYS[1], entries[i])
    else
      others = others + tonumber(count)
    end
  end
end
if checks and most > 0 and others + mine > most then return {'running', others + mine} end
if rate > 0 then
  local bucket = redis.call('HMGET', KEYS[2], 'used', 'at')
  local forgiven = (now - (tonumber(bucket[2]) or now)) * rate / 60000
  local used = math.max(0, (tonumber(bucket[1]) or 0) - math.max(0, forgiven))
  local missing = math.min(tokens, rate) - (rate - used)
  if checks and missing > 0 then return {'tokens', math.ceil(missing * 60000 / rate)} end
  redis.call('HSET', KEYS[2], 'used', tostring(used + tokens), 'at', now)
  redis.call('PEXPIRE', KEYS[2], ARGV[7])
end
if mine > 0 then
  redis.call('HSET', KEYS[1], process, mine .. ':' .. (now + ARGV[6]))
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
else
  redis.call('HDEL', KEYS[1], process)
end
return {'ok', 0}
"""


@dataclass(frozen=True)
class Verdict:
    """What all processes together say: `amount` is answers running, or milliseconds to wait."""

    kind: Literal["ok", "running", "tokens"]
    amount: int


class SharedLimits:
    """One process's part in the common count.

    Args:
        client: of Redis; not closed here.
        lease_s: after so long a silence the process counts as gone.
        timeout_s: of a question.
    """

    def __init__(
        self, client: RedisClient, lease_s: float = LEASE_S, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._move = client.register_script(_MOVE)
        self._process = uuid.uuid4().hex
        self._lease_ms = round(lease_s * 1000)

    def place_of(self, tenant: str) -> str:
        """Return which server counts for a tenant: others of a cluster may answer without it."""
        return " ".join(node.address for node in self._client.nodes_of(_keys(tenant)))

    async def take(
        self, tenant: str, limits: TenantLimits, num_running: int, num_tokens: int
    ) -> Verdict:
        """Count a request in one round trip, if the limits allow it.

        Args:
            tenant: whose it is.
            limits: the tenant's.
            num_running: this process's answers of the tenant, with the request's own.
            num_tokens: of the request.

        Raises:
            StoreUnavailableError: Redis does not answer in time.
        """
        return await self._run(tenant, limits, num_running, num_tokens, checks=True)

    async def tell(
        self, tenant: str, limits: TenantLimits, num_running: int, num_unused: int
    ) -> None:
        """Say what is running here, and give back tokens.

        Raises:
            StoreUnavailableError: Redis does not answer in time.
        """
        await self._run(tenant, limits, num_running, -num_unused, checks=False)

    async def _run(
        self, tenant: str, limits: TenantLimits, num_running: int, num_tokens: int, *, checks: bool
    ) -> Verdict:
        numbers = (num_running, num_tokens, limits.max_concurrent, limits.tokens_per_minute)
        times = (self._lease_ms, _BUCKET_MS)
        arguments: list[str | int] = [self._process, *numbers, *times, int(checks)]
        async with answering(self._timeout_s, is_optional=True):
            kind, amount = await self._move(keys=_keys(tenant), args=arguments)
        return Verdict(kind.decode(), int(amount))


def _keys(tenant: str) -> list[str]:
    return [f"pad:v1:{{{tenant}}}:limit:{name}" for name in ("running", "tokens")]
