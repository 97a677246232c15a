"""A Redis server that answers, but with a refusal, is as good as one that is away."""

import pytest
import redis.asyncio
import redis.exceptions as redis_errors

from generator_svc.profiles import StoreOptions
from generator_svc.redis_calls import answering, failure_kind
from svc_common.errors import StoreUnavailableError
from tests.generator_svc.store_watch import opened
from tests.generator_svc.test_profiles import BRIEF, KIND

OPTIONS = StoreOptions(timeout_s=5.0, quick_s=5.0, local_ttl_s=0.0)


@pytest.fixture
def own_server(new_redis_server):
    return new_redis_server()


@pytest.mark.parametrize(
    "command",
    [
        "CONFIG SET min-replicas-to-write 1",
        "CONFIG SET maxmemory 1",
        "REPLICAOF 127.0.0.1 1",
        "ACL SETUSER default -hset -zadd -zrem",
        "ACL SETUSER default -multi -evalsha -zadd",
    ],
)
async def test_a_write_that_redis_refuses_says_that_the_store_is_unavailable(own_server, command):
    """NOREPLICAS and NOPERM reached the caller as INTERNAL."""
    async with opened(own_server.url, OPTIONS) as store:
        profile = await store.put("t", "ann", BRIEF, None)
        async with redis.asyncio.Redis.from_url(own_server.url) as raw:
            await raw.execute_command(*command.split())
        for call in (store.put("t", "ann", KIND, None), store.put_encoding("t", "v1", "x", b"y")):
            with pytest.raises(StoreUnavailableError):
                await call
        assert await store.get("t", "ann") == profile


async def test_a_read_that_redis_refuses_is_served_from_a_stale_copy(own_server):
    async with opened(own_server.url, OPTIONS) as store:
        await store.changes.is_listening.wait()  # what was copied before does not stay
        profile = await store.put("t", "ann", BRIEF, None)
        await store.load("t", "ann")
        async with redis.asyncio.Redis.from_url(own_server.url) as raw:
            await raw.execute_command("ACL", "SETUSER", "default", "-eval")
        assert await store.load("t", "ann") == profile
        for call in (store.get("t", "ann"), store.list_profiles("t", 10)):
            with pytest.raises(StoreUnavailableError):
                await call


@pytest.mark.parametrize(
    "error",
    [
        redis_errors.ResponseError("NOREPLICAS Not enough good replicas to write."),
        redis_errors.ResponseError("MISCONF Errors writing to the AOF file: No space left"),
        redis_errors.ResponseError("MISCONF Redis is configured to save. script: 1f, on @user:3."),
        redis_errors.ResponseError(
            "ERR Error running script (call to f_1): @user_script:9: -NOREPLICAS Not enough"
        ),
        redis_errors.ResponseError(
            "Command # 1 (HSET k v) of pipeline caused error: ('MISCONF Redis is configured',)"
        ),
        redis_errors.ResponseError("BUSY Redis is busy running a script."),
        redis_errors.NoPermissionError("User default has no permissions to run the command"),
        redis_errors.ReadOnlyError("You can't write against a read only replica."),
        redis_errors.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        redis_errors.BusyLoadingError("Redis is loading the dataset in memory"),
        redis_errors.ExecAbortError("Transaction discarded because of previous errors."),
        redis_errors.MasterDownError("Link with MASTER is down"),
        redis_errors.TryAgainError("Multiple keys request during rehashing of slot"),
    ],
)
async def test_refusals_are_known_in_all_their_forms(error):
    with pytest.raises(StoreUnavailableError, match=type(error).__name__):
        async with answering(5.0):
            raise error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), "silent"),
        (redis_errors.TimeoutError("Timeout reading from socket"), "silent"),
        (redis_errors.ConnectionError("max number of clients reached"), "unreachable"),
        (ConnectionRefusedError(), "unreachable"),
        (redis_errors.BusyLoadingError("Redis is loading the dataset in memory"), "loading"),
        (redis_errors.ReadOnlyError("You can't write against a read only replica."), "read_only"),
        (redis_errors.ResponseError("READONLY You can't write. script: 1f"), "read_only"),
        (redis_errors.OutOfMemoryError("command not allowed"), "full"),
        (redis_errors.ResponseError("ERR Error running script: -OOM command not"), "full"),
        (redis_errors.AuthenticationError("invalid password"), "refused"),
        (redis_errors.MovedError("7 127.0.0.1:7001"), "refused"),
        (redis_errors.ResponseError("NOREPLICAS Not enough good replicas"), "refused"),
    ],
)
def test_failures_are_counted_by_kind(error, kind):
    assert failure_kind(error) == kind


async def test_a_wrong_command_stays_our_bug():
    with pytest.raises(redis_errors.ResponseError):
        async with answering(5.0):
            raise redis_errors.ResponseError("ERR wrong number of arguments for 'hset' command")


async def test_an_encoding_of_a_wrong_type_is_no_bug_but_a_missing_one(redis_url):
    """A key of a wrong type failed every request with that text, though it can be computed."""
    async with opened(redis_url) as store, redis.asyncio.Redis.from_url(redis_url) as raw:
        await store.put_encoding("t", "v1", "x", b"y")
        (key,) = await raw.keys("pad:v1:enc:*")
        await raw.set(key, "no hash")
        await store.put_encoding("t", "v1", "x", b"y")
        assert await store.get_encodings("t", "v1", ["x"]) == {}
        assert await raw.get(key) == b"no hash"
