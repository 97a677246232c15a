import asyncio
import time
from contextlib import suppress

import pytest
import redis.asyncio

from generator_svc.profile_cache import LocalCache, SharedReads
from generator_svc.profile_index import UserIndex
from generator_svc.profiles import Preference, StoreOptions, connect
from generator_svc.redis_calls import answering
from svc_common.errors import ProfileNotFoundError, StoreUnavailableError
from tests.generator_svc.store_watch import PATIENT, administered, connected, opened, watched
from tests.generator_svc.test_profiles import BRIEF, KIND

NO_FRESH_COPIES = StoreOptions(timeout_s=5.0, quick_s=5.0, local_ttl_s=0.0)
NO_COPIES = StoreOptions(timeout_s=5.0, quick_s=5.0, local_ttl_s=0.0, stale_window_s=0.0)


async def within(seconds, awaitable):
    return await asyncio.wait_for(awaitable, seconds)


async def until(condition):
    """Wait for what another connection brings about: there is no event to wait on."""
    async with asyncio.timeout(5):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture
def own_server(new_redis_server):
    return new_redis_server()


async def test_second_load_is_local(store_url):
    async with opened(store_url) as store:
        await store.put("t", "ann", BRIEF, None)
        await within(5, store.changes.is_listening.wait())
        await store.load("t", "ann")
        await store.load("t", "ann")
        assert store.sources == ["redis", "local"]


async def test_loads_at_the_same_time_share_one_read(redis_url):
    async with opened(redis_url) as store, redis.asyncio.Redis.from_url(redis_url) as raw:
        await store.put("t", "ann", BRIEF, None)
        await within(5, store.changes.is_listening.wait())
        await raw.config_resetstat()
        profiles = await asyncio.gather(*(store.load("t", "ann") for _ in range(50)))
        assert set(profiles) == {profiles[0]}
        calls = (await raw.info("commandstats"))["cmdstat_eval"]["calls"]
        assert calls == 1


async def test_own_write_is_seen_at_once(store_url):
    async with opened(store_url) as store:
        for revision in range(1, 6):
            await store.put("t", "ann", BRIEF, None)
            assert (await store.load("t", "ann")).revision == revision
        await store.delete("t", "ann")
        with pytest.raises(ProfileNotFoundError):
            await store.load("t", "ann")


async def test_write_of_another_process_ends_the_local_copy(store_url):
    async with opened(store_url) as here, opened(store_url) as there:
        await there.put("t", "ann", BRIEF, None)
        await within(5, here.changes.is_listening.wait())
        assert (await here.load("t", "ann")).preferences == BRIEF

        async def has_new():
            return (await here.load("t", "ann")).preferences == KIND

        await there.put("t", "ann", KIND, None)
        await until(has_new)

        async def is_gone():
            try:
                await here.load("t", "ann")
            except ProfileNotFoundError:
                return True
            return False

        await there.delete("t", "ann")
        await until(is_gone)


async def test_copies_end_when_changes_were_missed(own_server):
    async with opened(own_server.url) as here:
        await here.put("t", "ann", BRIEF, None)
        await within(5, here.changes.is_listening.wait())
        await here.load("t", "ann")
        own_server.stop()
        own_server.start()  # empty: what was local would be wrong for ever without changes
        await until(lambda: _is_missing(here))


async def _is_missing(store):
    try:
        await store.load("t", "ann")
    except ProfileNotFoundError:
        return True
    return False


async def test_dead_server_leaves_a_stale_copy_and_else_a_quick_error(own_server):
    async with opened(own_server.url, NO_FRESH_COPIES) as store:
        await store.changes.is_listening.wait()  # what was copied before does not stay
        profile = await store.put("t", "ann", BRIEF, None)
        await store.load("t", "ann")
        own_server.stop()
        assert await store.load("t", "ann") == profile
        for call in (
            store.load("t", "bob"),
            store.get("t", "ann"),
            store.put("t", "ann", KIND, None),
            store.delete("t", "ann"),
            store.list_profiles("t", 10),
            store.get_encodings("t", "v1", ["x"]),
            store.put_encoding("t", "v1", "x", b"y"),
        ):
            started = time.monotonic()
            with pytest.raises(StoreUnavailableError, match="profile store: ") as error:
                await call
            assert error.value.retry_after_s == 1.0
            assert time.monotonic() - started < 1.0
        assert store.sources == ["redis", "stale", "unavailable"]
        own_server.start()

        async def is_back():
            try:
                await store.get("t", "ann")
            except StoreUnavailableError:
                return False
            except ProfileNotFoundError:
                return True

        await until(is_back)


async def test_failed_write_ends_the_local_copy(own_server):
    """It may have been done, so a copy from before it must not serve."""
    async with opened(own_server.url) as store:
        await store.put("t", "ann", BRIEF, None)
        await store.load("t", "ann")
        own_server.stop()
        with pytest.raises(StoreUnavailableError):
            await store.delete("t", "ann")
        with pytest.raises(StoreUnavailableError):
            await store.load("t", "ann")


async def test_silent_server_is_given_up_in_time(own_server):
    async with opened(own_server.url, NO_COPIES) as store:
        await store.put("t", "ann", BRIEF, None)
    options = StoreOptions(timeout_s=0.1, local_ttl_s=0.0, stale_window_s=0.0)
    async with opened(own_server.url, options) as store:
        own_server.pause()
        try:
            started = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                await store.load("t", "ann")
            assert 0.09 < time.monotonic() - started < 1.0
        finally:
            own_server.resume()


async def test_cancelled_call_leaves_no_answer_for_the_next(own_server):
    """A pooled connection must not give a caller the answer that another one left unread."""
    options = StoreOptions(timeout_s=5.0, local_ttl_s=0.0)
    client = connect(own_server.url, 5.0, max_connections=2)
    async with watched(client, options) as store:
        for user_id, preferences in (("ann", BRIEF), ("bob", KIND)):
            await store.put("t", user_id, preferences, None)
        own_server.pause()
        try:
            waiting = asyncio.ensure_future(store.get("t", "ann"))
            await asyncio.wait((waiting,), timeout=0.05)
            waiting.cancel()
            await asyncio.wait((waiting,))
        finally:
            own_server.resume()
        for _ in range(3):
            assert (await store.get("t", "bob")).user_id == "bob"
            assert (await store.get("t", "bob")).preferences == KIND


async def test_store_opens_while_redis_is_down(own_server):
    own_server.stop()
    async with opened(own_server.url) as store:
        with pytest.raises(StoreUnavailableError):
            await store.load("t", "ann")
        own_server.start()
        await within(5, store.changes.is_listening.wait())
        await store.put("t", "ann", (Preference("x", 1.0),), None)


async def test_store_closes_whenever_it_is_told_to(redis_url):
    """A cancellation while redis-py sent was lost (Python 3.11), and closing waited for ever."""
    for number in range(200):
        async with asyncio.timeout(5), opened(redis_url):
            for _ in range(number % 20):
                await asyncio.sleep(0)


async def test_lost_cancellation_is_made_up_for():
    async def lose_it():
        async with answering(5.0):
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    call = asyncio.ensure_future(lose_it())
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait((call,))
    assert call.cancelled()


async def test_read_that_was_overtaken_by_a_change_is_not_kept():
    reads, cache = SharedReads(), LocalCache(8)
    may_end = asyncio.Event()

    async def read():
        await may_end.wait()
        if reads.is_current("ann"):
            cache.put("ann", "old")
        return "old"

    waiting = asyncio.ensure_future(reads.read("ann", read, 5.0))
    await asyncio.sleep(0)
    reads.supersede("ann")
    may_end.set()
    assert await waiting == "old"
    assert cache.get("ann", 60) is None


class Held:
    """A command of a client whose first answer waits until it is released."""

    def __init__(self, command):
        self._command = command
        self.is_answered = asyncio.Event()
        self.may_return = asyncio.Event()

    async def __call__(self, *args):
        answer = await self._command(*args)
        if not self.is_answered.is_set():
            self.is_answered.set()
            await self.may_return.wait()
        return answer


async def test_profile_that_changed_while_it_was_read_is_not_kept(store_url):
    client = connected(store_url)
    async with watched(client, PATIENT) as store:
        await store.put("t", "ann", BRIEF, None)
        await within(5, store.changes.is_listening.wait())
        client.eval = held = Held(client.eval)
        loading = asyncio.ensure_future(store.load("t", "ann"))
        await within(5, held.is_answered.wait())
        await store.put("t", "ann", KIND, None)
        held.may_return.set()
        assert (await loading).preferences == BRIEF
        assert (await store.load("t", "ann")).preferences == KIND


async def test_index_is_corrected_by_who_wrote_last(store_url):
    """A creation that was slow with its index put back a user who was erased meanwhile."""
    async with opened(store_url) as store, administered(store_url) as raw:
        await store.put("t", "ann", BRIEF, None)
        raw.exists = held = Held(raw.exists)
        correcting = asyncio.ensure_future(UserIndex(raw).correct("t", "ann"))
        await within(5, held.is_answered.wait())
        await store.delete("t", "ann")
        held.may_return.set()
        await correcting
        assert await raw.zrange("pad:v1:{t}:users", 0, -1) == []


async def test_cancelled_caller_leaves_the_read_to_the_others():
    reads = SharedReads()
    may_end = asyncio.Event()

    async def read():
        await may_end.wait()
        return 7

    first, second = (asyncio.ensure_future(reads.read("ann", read, 5.0)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    may_end.set()
    assert await second == 7
    assert first.cancelled()


def test_cache_is_bounded_and_knows_ages():
    now = [0.0]
    cache = LocalCache(2, clock=lambda: now[0])
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a", 10) == 1
    cache.put("c", 3)
    assert [cache.get(key, 10) for key in "abc"] == [1, None, 3]
    now[0] = 11.0
    assert cache.get("a", 10) is None
    assert cache.get("a", 12) == 1
