"""A backup of the store, made and restored as docs/operate.md says, serves every profile again."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis.asyncio

from generator_svc.profiles import Preference, Profile
from svc_common.errors import ProfileNotFoundError
from tests.conftest import RedisServer
from tests.generator_svc.store_watch import opened

DURABLE = {"appendonly": "yes", "save": "", "maxmemory-policy": "noeviction"}  # as deployed
WISHES = (Preference("Be brief.", 1.0), Preference("Use lists.", 0.5))
USERS = [f"user-{number}" for number in range(20)]


@pytest.fixture
async def written(
    new_redis_server: Callable[..., RedisServer],
) -> AsyncIterator[tuple[RedisServer, list[Profile]]]:
    """A server with profiles, some of them written twice, and one that was erased."""
    server = new_redis_server(**DURABLE)
    async with opened(server.url) as store:
        for user in USERS:
            await store.put("t", user, WISHES[:1], 1.5)
        profiles = [await store.put("t", user, WISHES, 0.5, 1) for user in USERS]
        await store.put("t", "erased", WISHES, None)
        await store.delete("t", "erased")
        yield server, profiles


@contextmanager
def restored(binary: str, folder: Path, **settings: str) -> Iterator[RedisServer]:
    """Run a server on the files of a backup."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = RedisServer(binary, folder, port, settings={**DURABLE, **settings})
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def check(server: RedisServer, profiles: list[Profile]) -> None:
    """All is there, and goes on: revisions count from where they were."""
    async with opened(server.url) as store:
        assert await store.list_profiles("t", 100) == sorted(profiles, key=lambda p: p.user_id)
        with pytest.raises(ProfileNotFoundError):
            await store.load("t", "erased")
        again = await store.put("t", USERS[0], WISHES[:1], None, profiles[0].revision)
        assert again.revision == profiles[0].revision + 1


async def until(client: redis.asyncio.Redis, field: str, value: object) -> None:
    async with asyncio.timeout(30):
        while (await client.info("persistence"))[field] != value:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # a server that saves offers no event to wait on


async def test_the_append_only_folder_can_be_copied_while_it_is_written(
    written: tuple[RedisServer, list[Profile]], redis_binary: str, tmp_path: Path
) -> None:
    server, profiles = written
    async with redis.asyncio.Redis.from_url(server.url) as client:
        await client.config_set("auto-aof-rewrite-percentage", 0)
        await until(client, "aof_rewrite_in_progress", 0)
        shutil.copytree(server.folder / "appendonlydir", tmp_path / "appendonlydir")
        await client.config_set("auto-aof-rewrite-percentage", 100)
    with restored(redis_binary, tmp_path) as again:
        await check(again, profiles)


async def test_a_dump_is_read_by_a_server_that_appends_only_later(
    written: tuple[RedisServer, list[Profile]], redis_binary: str, tmp_path: Path
) -> None:
    """A server that is started with an append-only file reads that alone, and there is none."""
    server, profiles = written
    async with redis.asyncio.Redis.from_url(server.url) as client:
        before = await client.lastsave()
        await client.bgsave()
        await until(client, "rdb_bgsave_in_progress", 0)
        assert await client.lastsave() >= before
    shutil.copy(server.folder / "dump.rdb", tmp_path / "dump.rdb")
    with restored(redis_binary, tmp_path, appendonly="no") as first:
        async with redis.asyncio.Redis.from_url(first.url) as client:
            await client.config_set("appendonly", "yes")
            await until(client, "aof_enabled", 1)
            await until(client, "aof_rewrite_in_progress", 0)
            await until(client, "aof_rewrite_scheduled", 0)
            assert (await client.info("persistence"))["aof_last_bgrewrite_status"] == "ok"
    with restored(redis_binary, tmp_path) as again:
        await check(again, profiles)
