"""The store's password comes from a file, can be changed, and opens no more than it must."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import redis

from generator_svc.profiles import Preference, ProfileStore, connect
from generator_svc.redis_password import PasswordFile, read_password_file
from svc_common.errors import StoreUnavailableError
from svc_common.settings import SettingsError
from tests.conftest import RedisServer
from tests.generator_svc.store_watch import PATIENT, watched

ACL = Path(__file__).parents[2] / "deploy/redis_users.acl.example"
BRIEF = (Preference("Be brief.", 1.0),)


@pytest.fixture
def server(new_redis_server: Callable[[], RedisServer]) -> RedisServer:
    """A server with the users of the example, whose password is `one`."""
    running = new_redis_server()
    with redis.Redis(port=running.port) as admin:
        for line in reversed(ACL.read_text().splitlines()):  # the default user last
            _, name, *rules = line.replace("CHANGE-ME", "one").split()
            admin.execute_command("ACL", "SETUSER", name, "reset", *rules)
    return running


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("pad one\n")
    return path


def change(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.fixture
async def store(server: RedisServer, password_file: Path) -> AsyncIterator[ProfileStore]:
    password = read_password_file(str(password_file))
    client = connect(server.url, PATIENT.timeout_s, password=password)
    async with watched(client, PATIENT) as opened:
        yield opened


async def test_the_user_of_the_example_may_do_all_that_the_generator_does(
    store: ProfileStore,
) -> None:
    async with asyncio.timeout(10):
        await store.changes.is_listening.wait()
    put = await store.put("t", "ann", BRIEF, 0.5)
    assert await store.load("t", "ann") == put
    assert await store.list_profiles("t", 9) == [put]
    await store.put_encoding("t", "v", "Be brief.", b"1234")
    assert await store.get_encodings("t", "v", ["Be brief."]) == {"Be brief.": b"1234"}
    await store.delete("t", "ann")
    assert await store.get_encodings("t", "v", ["Be brief."]) == {}


def test_it_may_do_no_more_and_nobody_else_may_do_anything(server: RedisServer) -> None:
    with redis.Redis(port=server.port, username="pad", password="one") as pad:
        for command in ("GET other", "KEYS *", "FLUSHALL", "CONFIG GET *", "ACL LIST", "SAVE"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                pad.execute_command(*command.split())
    with redis.Redis(port=server.port) as nobody:
        assert nobody.ping()  # the health check of the container
        for command in ("GET pad:v1:x", "HGETALL pad:v1:{t:ann}:profile", "ACL WHOAMI"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                nobody.execute_command(*command.split())


async def test_a_password_can_be_changed_while_we_run(
    store: ProfileStore, server: RedisServer, password_file: Path
) -> None:
    await store.put("t", "ann", BRIEF, None)
    with redis.Redis(port=server.port, username="pad", password="one") as pad:
        pad.ping()
    change(password_file, "pad two")
    server.stop()
    server.start()  # the example's users are gone with it: only the new password is known
    with redis.Redis(port=server.port) as admin:
        rules = ["reset", "on", ">two", "~pad:v1:*", "&pad:v1:*", "+@all"]
        admin.execute_command("ACL", "SETUSER", "pad", *rules)
    assert (await store.put("t", "ann", BRIEF, None)).revision == 1
    change(password_file, "pad wrong")
    with redis.Redis(port=server.port) as admin:
        admin.execute_command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "yes")
    with pytest.raises(StoreUnavailableError):
        await store.get("t", "ann")


@pytest.mark.parametrize(("text", "parts"), [("pw\n", ("pw",)), ("pad p:w@/ \n", ("pad", "p:w@/"))])
def test_a_file_holds_a_password_or_a_user_and_a_password(
    password_file: Path, text: str, parts: tuple[str, ...]
) -> None:
    password_file.write_text(text)
    assert PasswordFile(password_file).get_credentials() == parts


@pytest.mark.parametrize("content", [b"", b"a b c", b"\xff", None])
def test_a_file_without_one_stops_the_start_and_is_not_quoted(
    password_file: Path, content: bytes | None
) -> None:
    password_file.unlink()
    if content is not None:
        password_file.write_bytes(content)
    rule = "^GENERATOR_REDIS_PASSWORD_FILE=.*: must hold a password, or user and password"
    with pytest.raises(SettingsError, match=rule) as caught:
        read_password_file(str(password_file))
    assert "a b c" not in str(caught.value)
    assert read_password_file("") is None
