"""What a Redis that fails does to requests: they go on, or fail, in time; and it is counted."""

import time

import pytest
import redis.asyncio

from generator_svc.profiles import StoreOptions
from svc_common.errors import ProfileNotFoundError, StoreUnavailableError
from tests.generator_svc.store_watch import (
    OLD_COPIES,
    admin,
    opened,
    put,
    until,
    until_loaded,
    until_served,
)
from tests.generator_svc.test_profiles import BRIEF, KIND
from tests.tcp_proxy import tcp_proxy

MAX_FALLBACK_S = 0.05  # what p99 may be
NUM_LOADS = 1000


async def fallbacks(store, profile):
    """Take every way out of an outage often; return how long each time took, sorted."""
    times = []
    for number in range(NUM_LOADS):
        started = time.perf_counter()
        if number % 3 == 0:
            assert await store.load("t", "ann") == profile
        elif number % 3 == 1:
            with pytest.raises(StoreUnavailableError, match="profile store"):
                await store.load("t", "nobody")
        else:  # as for preferences in the request itself
            with pytest.raises(StoreUnavailableError):
                await store.get_encodings("t", "v1", ["x"])
        times.append(time.perf_counter() - started)
    return sorted(times)


async def stop(server, proxy):
    server.stop()


async def pause(server, proxy):
    server.pause()


async def swallow(server, proxy):
    proxy.swallows = True


async def cut_off(server, proxy):
    proxy.target_port = 1  # where nobody listens
    proxy.cut()


async def restore(server, proxy):
    server.resume()
    if server.process.poll() is not None:
        server.start()
    proxy.swallows, proxy.target_port = False, server.port
    proxy.cut()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (stop, "unreachable"),
        (pause, "silent"),
        (swallow, "silent"),
        (cut_off, "unreachable"),
    ],
)
async def test_requests_fall_back_in_time_and_recover(new_redis_server, fault, kind):
    server = new_redis_server()
    async with tcp_proxy(server.port) as proxy, opened(proxy.url, OLD_COPIES) as store:
        await put(store, "ann", BRIEF)
        profile = await until_loaded(store)
        await fault(server, proxy)
        try:
            times = await fallbacks(store, profile)
        finally:
            await restore(server, proxy)
        assert times[NUM_LOADS * 99 // 100] <= MAX_FALLBACK_S
        assert times[-1] < 2.0
        assert {"stale", "unavailable"} <= set(store.watch.sources)
        assert {kind, "down"} <= set(store.watch.failures)
        assert store.watch.states[-1] is False
        await put(store, "bob", KIND)
        assert store.watch.states[-1] is True


async def test_a_connection_limit_is_an_outage_that_ends(new_redis_server):
    server = new_redis_server()
    async with opened(server.url, OLD_COPIES) as store, admin(server) as raw:
        await put(store, "ann", BRIEF)
        profile = await until_loaded(store)
        await raw.config_set("maxclients", 1)
        await raw.client_kill_filter(_type="pubsub")
        await raw.client_kill_filter(_type="normal", skipme=True)
        times = await fallbacks(store, profile)
        assert times[NUM_LOADS * 99 // 100] <= MAX_FALLBACK_S
        assert "unreachable" in store.watch.failures
        await raw.config_set("maxclients", 1000)
        assert await until_served(store) == profile


async def test_a_busy_redis_is_waited_for_and_never_given_up(new_redis_server):
    """Answers take longer than a request waits for what it can do without."""
    server = new_redis_server()
    options = StoreOptions(timeout_s=5.0, quick_s=0.02, local_ttl_s=0.0)
    async with tcp_proxy(server.port) as proxy, opened(proxy.url, options) as store:
        await store.changes.is_listening.wait()  # what was copied before does not stay
        profile = await put(store, "ann", BRIEF)
        proxy.delay_s = 0.1
        assert await store.load("t", "ann") == profile  # has no copy: waits
        assert await store.load("t", "ann") == profile  # has one: does not
        assert store.watch.sources == ["redis", "stale"]
        assert (await store.put("t", "ann", KIND, None)).revision == profile.revision + 1
        assert (await store.get("t", "ann")).preferences == KIND
        assert "down" not in store.watch.failures
        assert store.watch.states == [True]


async def test_an_answer_that_comes_late_serves_the_next_request(new_redis_server):
    server = new_redis_server()
    options = StoreOptions(timeout_s=5.0, quick_s=0.02)
    async with tcp_proxy(server.port) as proxy, opened(proxy.url, options) as store:
        await store.changes.is_listening.wait()
        profile = await put(store, "ann", BRIEF)
        proxy.delay_s = 0.2
        store.health._pulses_of(["any"])[0].suspect(
            time.monotonic()
        )  # so that nobody waits for the timeout
        with pytest.raises(StoreUnavailableError, match=r"within 0\.02 s"):
            await store.load("t", "ann")

        async def is_kept():
            try:
                return await store.load("t", "ann") == profile
            except StoreUnavailableError:
                return False

        await until(is_kept)
        assert "local" in store.watch.sources or "redis" in store.watch.sources


async def test_a_full_redis_refuses_writes_serves_reads_and_lets_users_be_erased(new_redis_server):
    server = new_redis_server()
    options = StoreOptions(timeout_s=5.0, quick_s=5.0, local_ttl_s=0.0)
    async with opened(server.url, options) as store, admin(server) as raw:
        profile = await store.put("t", "ann", BRIEF, None)
        await store.put_encoding("t", "v1", BRIEF[0].text, b"12")
        await raw.config_set("maxmemory", 1)
        for write in (
            store.put("t", "ann", KIND, None),
            store.put("t", "bob", KIND, None),
            store.put_encoding("t", "v1", "y", b"34"),
        ):
            with pytest.raises(StoreUnavailableError, match="OutOfMemoryError"):
                await write
        assert store.watch.failures == ["full"] * 3
        assert await store.load("t", "ann") == await store.get("t", "ann") == profile
        assert await store.list_profiles("t", 10) == [profile]
        await store.delete("t", "ann")
        assert await store.list_profiles("t", 10) == []
        assert await store.get_encodings("t", "v1", [BRIEF[0].text]) == {}
        await raw.config_set("maxmemory", 0)
        assert (await store.put("t", "ann", KIND, None)).revision == 2
        assert store.watch.states == [True]


async def test_redis_that_loads_is_down_until_it_has_loaded(new_redis_server):
    server = new_redis_server(dbfilename="dump.rdb")
    async with opened(server.url, OLD_COPIES) as store:
        profile = await put(store, "ann", BRIEF)
        async with admin(server) as raw:
            await raw.mset({f"filler:{number}": "x" * 100 for number in range(50_000)})
            await raw.save()
        await until_loaded(store)
        server.stop()
        server.settings |= {
            "key-load-delay": "200",  # microseconds a key
            "loading-process-events-interval-bytes": "1024",
        }
        server.launch()
        async with admin(server) as raw:
            await until(lambda: is_loading(raw))
        async with opened(server.url) as patient:  # waits until Redis has time to say so
            with pytest.raises(StoreUnavailableError):
                await patient.get("t", "ann")
            assert patient.watch.failures == ["loading"]
        times = await fallbacks(store, profile)
        assert times[NUM_LOADS * 99 // 100] <= MAX_FALLBACK_S
        async with admin(server) as raw:
            await raw.config_set("key-load-delay", 0)
        assert await until_served(store) == profile


async def is_loading(raw):
    try:
        return (await raw.info("persistence"))["loading"] == 1
    except redis.exceptions.ConnectionError:
        return False


async def test_restarted_empty_redis_has_no_profiles_and_old_copies_end(new_redis_server):
    server = new_redis_server()
    async with opened(server.url, OLD_COPIES) as store:
        await put(store, "ann", BRIEF)
        await until_loaded(store)
        num_gaps = store.watch.num_gaps
        server.stop()
        server.start()
        with pytest.raises(ProfileNotFoundError):
            await until_served(store)

        async def has_noticed():
            return store.watch.num_gaps > num_gaps

        await until(has_noticed)
        with pytest.raises(ProfileNotFoundError):
            await store.load("t", "ann")
        assert (await put(store, "ann", KIND)).revision == 1


async def test_scripts_may_vanish_between_any_two_calls(new_redis_server):
    server = new_redis_server()
    async with opened(server.url) as store, admin(server) as raw:
        for number in range(3):
            for call in (
                lambda: store.put("t", "ann", BRIEF, None),
                lambda: store.load("t", "ann"),
                lambda: store.put_encoding("t", "v1", "x", b"y"),
                lambda: store.get_encodings("t", "v1", ["x"]),
                lambda: store.list_profiles("t", 5),
                lambda: store.delete("t", "ann"),
            ):
                await raw.script_flush()
                await call()
            assert number or await raw.keys("pad:v1:{t:ann}:tombstone")
        assert store.watch.failures == []
