"""Limits of tenants: what one process counts, and what all count in Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import redis

from generator_svc.admission.limiter import TenantLimiter
from generator_svc.admission.limits import LimitTable, TenantLimits
from generator_svc.admission.local_limits import LocalLimits
from generator_svc.admission.shared_limits import LEASE_S, TIMEOUT_S, SharedLimits, Verdict
from generator_svc.engine.waiting_room import RefusalReason, RefusedError
from generator_svc.redis_client import RedisClient
from tests.conftest import RedisServer
from tests.generator_svc.store_watch import connected

PATIENT_S = 10.0  # where Redis shall answer, however busy the machine
TWO = TenantLimits(max_concurrent=2)
SIXTY = TenantLimits(tokens_per_minute=60)  # one token a second


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def refusal(local: LocalLimits, limits: TenantLimits, num_tokens: int = 1) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        local.take("acme", limits, 1, num_tokens)
    return caught.value


def test_one_answer_too_many_waits_for_the_first_to_end() -> None:
    local = LocalLimits(lambda: 8.0)
    local.take("acme", TWO, 2, 10)
    error = refusal(local, TWO)
    assert error.reason is RefusalReason.TENANT_CONCURRENCY
    assert str(error).startswith("max_concurrent: this tenant may have 2 answers at once, has 2")
    assert error.retry_after_s == 4.0
    local.take("other", TWO, 2, 10)
    local.give("acme", 1, 0)
    local.take("acme", TWO, 1, 10)


def test_tokens_come_back_at_their_rate_and_the_delay_is_exact() -> None:
    clock = Clock()
    local = LocalLimits(lambda: 1.0, clock)
    local.take("acme", SIXTY, 1, 50)
    error = refusal(local, SIXTY, 30)
    assert error.reason is RefusalReason.TENANT_TOKENS
    assert error.retry_after_s == pytest.approx(20.0)
    clock.now += 19.9
    assert refusal(local, SIXTY, 30).retry_after_s == pytest.approx(0.1)
    clock.now += 0.2
    local.take("acme", SIXTY, 1, 30)


def test_tokens_that_were_not_used_are_given_back() -> None:
    local = LocalLimits(lambda: 1.0, Clock())
    local.take("acme", SIXTY, 1, 60)
    local.give("acme", 1, 45)
    local.take("acme", SIXTY, 1, 45)
    refusal(local, SIXTY, 1)


def test_a_request_above_a_minutes_tokens_needs_a_full_bucket_and_leaves_a_debt() -> None:
    clock = Clock()
    local = LocalLimits(lambda: 1.0, clock)
    local.take("acme", SIXTY, 1, 90)
    assert refusal(local, SIXTY, 1).retry_after_s == pytest.approx(31.0)
    clock.now += 89.0
    assert refusal(local, SIXTY, 90).retry_after_s == pytest.approx(1.0)


class Fallbacks:
    count = 0

    def __call__(self) -> None:
        self.count += 1


@asynccontextmanager
async def process(
    url: str,
    limits: TenantLimits,
    fallbacks: Fallbacks | None = None,
    lease_s: float = LEASE_S,
    timeout_s: float = PATIENT_S,
) -> AsyncIterator[TenantLimiter]:
    """Run the limiter as one generator process does."""
    async with connected(url, timeout_s) as client:
        shared = SharedLimits(client, lease_s, timeout_s)
        local = LocalLimits(lambda: 8.0)
        limiter = TenantLimiter(LimitTable(limits), local, shared, fallbacks or Fallbacks())
        running = asyncio.create_task(limiter.run())
        try:
            yield limiter
        finally:
            running.cancel()
            await asyncio.wait((running,))


async def eventually(take: Callable[[], object]) -> None:
    """Try until it is let in: other processes hear of ends a moment later."""
    async with asyncio.timeout(20):
        while True:
            try:
                await take()  # type: ignore[misc]
            except RefusedError as error:
                await asyncio.sleep(min(0.05, error.retry_after_s or 0.05))
            else:
                return


async def test_two_processes_keep_one_limit_of_answers(store_url: str) -> None:
    async with process(store_url, TWO) as one, process(store_url, TWO) as two:
        first = await one.take("acme", 1, 5)
        await two.take("acme", 1, 5)
        for limiter in (one, two):
            with pytest.raises(RefusedError, match="may have 2 answers at once, has 2"):
                await limiter.take("acme", 1, 5)
        await one.take("other", 2, 5)
        one.give(first, 5)
        await eventually(lambda: two.take("acme", 1, 5))


async def test_two_processes_keep_one_limit_of_tokens_and_give_back_the_unused(
    store_url: str,
) -> None:
    limits = TenantLimits(tokens_per_minute=6000)
    async with process(store_url, limits) as one, process(store_url, limits) as two:
        lease = await one.take("acme", 1, 5000)
        with pytest.raises(RefusedError, match="tokens_per_minute") as caught:
            await two.take("acme", 1, 5000)
        assert caught.value.retry_after_s is not None
        assert 20 < caught.value.retry_after_s <= 40
        one.give(lease, 10)
        await eventually(lambda: two.take("acme", 1, 5000))


async def test_a_process_that_died_holds_no_answers_for_long(store_url: str) -> None:
    async with process(store_url, TWO, lease_s=0.2) as one:
        await one.take("acme", 2, 5)
    async with process(store_url, TWO) as two:
        await eventually(lambda: two.take("acme", 2, 5))


class LostAnswers(SharedLimits):
    """Counts, and never says so."""

    def __init__(self, client: RedisClient) -> None:
        super().__init__(client, timeout_s=PATIENT_S)
        self.has_counted = asyncio.Event()

    async def take(
        self, tenant: str, limits: TenantLimits, num_running: int, num_tokens: int
    ) -> Verdict:
        await super().take(tenant, limits, num_running, num_tokens)
        self.has_counted.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets that event")


async def test_a_caller_who_hangs_up_while_redis_counts_is_counted_no_more(store_url: str) -> None:
    async with connected(store_url, PATIENT_S) as client, process(store_url, TWO) as two:
        shared = LostAnswers(client)
        one = TenantLimiter(LimitTable(TWO), LocalLimits(lambda: 8.0), shared, Fallbacks())
        running = asyncio.create_task(one.run())
        taking = asyncio.create_task(one.take("acme", 2, 5))
        await shared.has_counted.wait()
        with pytest.raises(RefusedError):
            await two.take("acme", 1, 5)
        taking.cancel()
        await eventually(lambda: two.take("acme", 2, 5))
        running.cancel()
        await asyncio.wait((running, taking))


async def test_keys_hold_the_tenant_alone_and_go_by_themselves(redis_url: str) -> None:
    limits = TenantLimits(max_concurrent=2, tokens_per_minute=600)
    async with process(redis_url, limits) as one:
        await one.take("acme", 1, 5)
    with redis.Redis.from_url(redis_url) as client:
        keys = {key.decode() for key in client.keys("*")}
        assert keys == {"pad:v1:{acme}:limit:running", "pad:v1:{acme}:limit:tokens"}
        assert all(client.pttl(key) > 0 for key in keys)


async def test_without_limits_nothing_is_asked(new_redis_server: Callable[[], RedisServer]) -> None:
    server = new_redis_server()
    server.pause()
    fallbacks = Fallbacks()
    async with process(server.url, TenantLimits(), fallbacks) as limiter:
        for _ in range(1000):
            await limiter.take("acme", 1, 5)
    server.resume()
    assert not fallbacks.count


async def test_a_silent_or_lost_redis_holds_nobody_up_and_limits_hold_here(
    new_redis_server: Callable[[], RedisServer],
) -> None:
    server = new_redis_server()
    fallbacks = Fallbacks()
    limits = TenantLimits(max_concurrent=20)
    async with process(server.url, limits, fallbacks, timeout_s=TIMEOUT_S) as limiter:
        await limiter.take("acme", 1, 5)
        before = fallbacks.count  # a busy machine is as slow as a silent Redis
        server.pause()
        async with asyncio.timeout(5):  # 30 ms on an idle machine
            await asyncio.gather(*(limiter.take("acme", 1, 5) for _ in range(10)))
        assert fallbacks.count == before + 10
        server.resume()
        server.stop()
        for _ in range(9):
            await limiter.take("acme", 1, 5)
        assert fallbacks.count == before + 19
        with pytest.raises(RefusedError, match="may have 20"):
            await limiter.take("acme", 1, 5)


async def test_a_flood_of_refused_requests_asks_redis_little(redis_url: str) -> None:
    limits = TenantLimits(max_concurrent=1)
    async with process(redis_url, limits) as one, process(redis_url, limits) as two:
        await one.take("acme", 1, 5)
        with pytest.raises(RefusedError):
            await two.take("acme", 1, 5)
        with redis.Redis.from_url(redis_url) as client:
            before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
            results = await asyncio.gather(
                *(two.take("acme", 1, 5) for _ in range(500)), return_exceptions=True
            )
            after = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert all(isinstance(result, RefusedError) for result in results)
    assert after - before < 200
