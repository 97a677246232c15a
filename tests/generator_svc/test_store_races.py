"""Several processes on one Redis: no update is lost, and each sees what the others change."""

import asyncio
import json
import sys
import time

import pytest
import redis.exceptions

from generator_svc.profiles import Preference, StoreOptions
from tests.generator_svc.store_watch import admin, opened, until
from tests.generator_svc.test_profiles import BRIEF, KIND

NUM_WRITERS, NUM_WORDS = 4, 30


async def writers(url, name):
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.generator_svc.store_writer"),
        *(url, name, str(NUM_WRITERS), str(NUM_WORDS)),
        stdout=asyncio.subprocess.PIPE,
    )


async def do_harm(server):
    """Kill connections, drop scripts and stop the server for longer than anybody waits."""
    async with admin(server) as raw:
        while True:
            server.pause()
            await asyncio.sleep(0.3)  # the fault itself, not a wait for something
            server.resume()
            try:
                await raw.script_flush()
                await raw.client_kill_filter(_type="normal", skipme=True)
                await raw.client_kill_filter(_type="pubsub")
            except redis.exceptions.ConnectionError:
                continue
            await asyncio.sleep(0.3)


async def has_begun(store):
    return (await store.get("t", "ann")).revision > 1


@pytest.mark.parametrize("is_harmed", [False, True], ids=["calm", "harmed"])
async def test_writers_of_two_processes_lose_no_update(new_redis_server, is_harmed):
    server = new_redis_server()
    async with opened(server.url) as store, asyncio.timeout(120):
        await store.put("t", "ann", (Preference("start", 1.0),), None)
        processes = [await writers(server.url, name) for name in "ab"]
        await until(lambda: has_begun(store))
        harm = asyncio.create_task(do_harm(server)) if is_harmed else None
        outputs = [(await process.communicate())[0] for process in processes]
        if harm is not None:
            harm.cancel()
            await asyncio.wait((harm,))
            server.resume()
        async with opened(server.url) as reader:
            profile = await reader.get("t", "ann")
    words = profile.preferences[0].text.split()
    acknowledged = {word for output in outputs for word in json.loads(output)}
    assert len(words) == len(set(words)) == 1 + 2 * NUM_WRITERS * NUM_WORDS
    assert acknowledged <= set(words)
    assert is_harmed or acknowledged == set(words[1:])
    assert profile.revision == len(words)  # each was written once


async def test_change_is_seen_by_another_process_within_a_second(redis_url):
    async with opened(redis_url) as here, opened(redis_url) as there:
        await here.changes.is_listening.wait()
        delays = []
        for number in range(50):
            await there.put("t", "ann", BRIEF if number % 2 else KIND, None)
            revision = (await there.get("t", "ann")).revision
            written = time.perf_counter()

            async def is_seen(revision=revision):
                return (await here.load("t", "ann")).revision == revision

            await until(is_seen)
            delays.append(time.perf_counter() - written)
        assert max(delays) < 1.0


async def test_copies_of_who_cannot_listen_end_by_age_and_when_it_listens_again(new_redis_server):
    server = new_redis_server()
    options = StoreOptions(timeout_s=5.0, quick_s=5.0, local_ttl_s=0.5)
    forever = StoreOptions(timeout_s=5.0, quick_s=5.0, local_ttl_s=1e6)
    deaf_url = f"redis://deaf:pass@127.0.0.1:{server.port}/0"
    async with admin(server) as raw, opened(server.url) as there:
        user = ("ACL", "SETUSER", "deaf", "on", ">pass", "~*", "+@all")
        await raw.execute_command(*user, "resetchannels")
        async with opened(deaf_url, options) as ageing, opened(deaf_url, forever) as ageless:
            await there.put("t", "ann", BRIEF, None)
            for store in (ageing, ageless):
                assert (await store.load("t", "ann")).preferences == BRIEF
                assert not store.changes.is_listening.is_set()
            await there.put("t", "ann", KIND, None)

            async def has_new(store=ageing):
                return (await store.load("t", "ann")).preferences == KIND

            await until(has_new)
            assert (await ageless.load("t", "ann")).preferences == BRIEF
            await raw.execute_command(*user, "allchannels")
            await ageless.changes.is_listening.wait()
            assert (await ageless.load("t", "ann")).preferences == KIND


async def test_copies_nobody_asks_for_are_forgotten_too(redis_url):
    options = StoreOptions(
        timeout_s=5.0, quick_s=5.0, local_ttl_s=0.05, stale_window_s=0.1, expiry_interval_s=0.02
    )
    async with opened(redis_url, options) as store:
        await store.put("t", "ann", BRIEF, None)
        await store.load("t", "ann")

        async def is_forgotten():
            return len(store._copies._local) == 0

        await until(is_forgotten)
