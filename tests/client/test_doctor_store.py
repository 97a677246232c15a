"""`pad doctor` on the Redis that the generator's settings name: real servers, set up wrongly."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from pad_client.doctor import Finding, Level, store
from pad_client.doctor.store import check_store
from tests.client.test_doctor import by_check
from tests.conftest import RedisServer
from tests.edge_svc.edges import until
from tests.redis_cluster import new_cluster

SECRET = "s3cret-of-redis"
New = Callable[..., RedisServer]


def examine(url: str, **variables: str) -> dict[str, Finding]:
    found = by_check(check_store({"GENERATOR_REDIS_URL": url, **variables}))
    assert SECRET not in repr(found)
    return found


def levels(found: dict[str, Finding]) -> dict[str, str]:
    return {name.removeprefix("redis."): each.level.value for name, each in found.items()}


@pytest.fixture
def configured(new_redis_server: New) -> Callable[..., RedisServer]:
    """Start a server, and set it while it runs: with a password its start could not be seen."""

    def start(**settings: Any) -> RedisServer:
        server = new_redis_server()
        with redis.Redis(port=server.port) as client:
            for name, value in settings.items():
                client.config_set(name.replace("_", "-"), value)
        return server

    return start


def password_file(folder: Path, content: str) -> dict[str, str]:
    path = folder / "password"
    path.write_text(content)
    path.chmod(0o600)
    return {"GENERATOR_REDIS_PASSWORD_FILE": str(path)}


def test_a_store_as_the_project_advises_is_well_and_left_as_it_is(new_redis_server: New) -> None:
    server = new_redis_server(appendonly="yes")
    assert levels(examine(server.url)) == dict.fromkeys(
        ("connection", "rights", "eviction", "persistence"), "ok"
    )
    with redis.Redis(port=server.port) as client:
        assert client.dbsize() == 0
    assert list(check_store({"GENERATOR_DTYPE": "float32"})) == []


@pytest.mark.parametrize(
    ("settings", "level"),
    [
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": "100mb"}, "fail"),
        ({"maxmemory_policy": "allkeys-lru"}, "warn"),  # until somebody sets a limit
        ({"maxmemory_policy": "volatile-lru", "maxmemory": "100mb"}, "warn"),
    ],
)
def test_a_policy_that_would_evict_is_told(
    configured: New, settings: dict[str, str], level: str
) -> None:
    finding = examine(configured(**settings).url)["redis.eviction"]
    assert finding.level.value == level
    assert settings["maxmemory_policy"] in finding.found
    assert "noeviction" in finding.advice


def test_a_store_that_forgets_at_a_restart_or_is_nearly_full_is_told(configured: New) -> None:
    server = configured()
    with redis.Redis(port=server.port) as client:
        client.config_set("maxmemory", int(client.info()["used_memory"]) * 102 // 100)
    found = examine(server.url)
    assert levels(found) == {
        "connection": "ok",
        "rights": "ok",
        "eviction": "ok",
        "persistence": "warn",
        "memory": "warn",
    }
    assert "appendonly yes" in found["redis.persistence"].advice


def test_a_store_that_cannot_write_its_dump_is_told(configured: New) -> None:
    server = configured()
    shutil.rmtree(server.folder)
    with redis.Redis(port=server.port) as client:
        client.bgsave()
        until(lambda: client.info()["rdb_last_bgsave_status"] == "err")
    finding = examine(server.url)["redis.persistence"]
    assert (finding.level, "dump failed" in finding.found) == (Level.FAIL, True)


def test_the_password_is_tried_and_never_shown(configured: New, tmp_path: Path) -> None:
    server = configured(requirepass=SECRET)
    right = password_file(tmp_path, f"{SECRET}\n")
    assert levels(examine(server.url, **right))["rights"] == "ok"
    in_url = server.url.replace("//", f"//:{SECRET}@")
    assert levels(examine(in_url))["password"] == "warn"
    assert "both say who asks" in examine(in_url, **right)["redis.password"].found
    without = examine(server.url)["redis.connection"]
    assert (without.level, "asked for, none is given" in without.found) == (Level.FAIL, True)
    wrong = examine(server.url, **password_file(tmp_path, "other"))["redis.connection"]
    assert (wrong.level, "is not the right one" in wrong.found) == (Level.FAIL, True)
    none = examine(server.url, **password_file(tmp_path, "a b c"))["redis"]
    assert "must be a file with a password, or user and password" in none.found
    missing = examine(server.url, GENERATOR_REDIS_PASSWORD_FILE=SECRET)["redis"]
    assert missing.level is Level.FAIL


def test_the_rights_of_the_user_are_tried(configured: New, tmp_path: Path) -> None:
    """With the users of deploy/redis_users.acl.example."""
    server = configured()
    rules = (Path(__file__).parents[2] / "deploy/redis_users.acl.example").read_text()
    users = [line.split()[1:] for line in rules.splitlines() if line.startswith("user ")]
    with redis.Redis(port=server.port) as client:
        for name, *words in reversed(users):  # the default user last: it is who sets them
            secret = [f">{SECRET}" if word == ">CHANGE-ME" else word for word in words]
            client.execute_command("ACL", "SETUSER", name, *secret)
    stranger = examine(server.url)
    assert levels(stranger) == {"connection": "ok", "rights": "fail"}
    known = examine(server.url, **password_file(tmp_path, f"pad {SECRET}"))
    assert levels(known) == {"connection": "ok", "rights": "ok", "state": "warn"}
    assert "maxmemory-policy" in known["redis.state"].advice


def test_a_replica_is_told(configured: New) -> None:
    server = configured()
    with redis.Redis(port=server.port) as client:
        client.replicaof("127.0.0.1", "1")
    finding = examine(server.url)["redis.rights"]
    assert finding.level is Level.FAIL
    assert "name the primary" in finding.advice


def test_a_cluster_is_told(new_redis_server: New) -> None:
    finding = examine(new_redis_server(**{"cluster-enabled": "yes"}).url)["redis.rights"]
    assert finding.level is Level.FAIL
    assert "GENERATOR_REDIS_CLUSTER=true" in finding.advice


def test_a_cluster_is_asked_node_by_node(new_redis_server: New) -> None:
    """Its own setting was unknown here, and each was told that clusters are not supported."""
    cluster = new_cluster(new_redis_server)
    first = cluster.primaries[0].url
    as_one = examine(first)["redis.cluster"]
    assert (as_one.level, "must be true" in as_one.found) == (Level.FAIL, True)
    several = examine(cluster.url)["redis.url"]
    assert (several.level, "GENERATOR_REDIS_CLUSTER=true" in several.advice) == (Level.FAIL, True)
    in_url = cluster.url.replace("//", f"//:{SECRET}@")
    assert levels(examine(in_url)) == {"url": "fail"}
    for url in (first, cluster.url):
        assert levels(examine(url, GENERATOR_REDIS_CLUSTER="true")) == {
            "connection": "ok",
            "rights": "ok",
            "eviction": "ok",
            "persistence": "warn",
        }
    last = cluster.primaries[-1]
    with redis.Redis(port=last.port) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    finding = examine(cluster.url, GENERATOR_REDIS_CLUSTER="true")["redis.eviction"]
    assert (finding.level, f":{last.port}: " in finding.found) == (Level.WARN, True)
    assert all(not keys for keys in cluster.keys().values())


def test_a_server_by_itself_is_no_cluster(new_redis_server: New) -> None:
    found = examine(new_redis_server().url, GENERATOR_REDIS_CLUSTER="true")
    assert levels(found) == {"cluster": "fail"}
    assert "must be false" in found["redis.cluster"].found


def test_a_store_that_is_not_there_or_silent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = examine("redis://127.0.0.1:1/0")["redis.connection"]
    assert (gone.level, "start Redis" in gone.advice) == (Level.FAIL, True)
    assert "127.0.0.1:1" in gone.found
    monkeypatch.setattr(store, "_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        finding = examine(url)["redis.connection"]
    assert (finding.level, "firewall" in finding.advice) == (Level.FAIL, True)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:6379",
        "http://127.0.0.1",
        "unix://",
        f"redis://:{SECRET}/more@127.0.0.1",
        f"redis://:{SECRET}#more@127.0.0.1",
        f"redis://127.0.0.1:{SECRET}",
        f"redis://127.0.0.1:1/0?{SECRET}=1",
        f"redis://127.0.0.1:1/0?socket_timeout={SECRET}",
    ],
)
def test_an_address_that_is_none_is_told_without_its_password(url: str) -> None:
    assert levels(examine(url)) == {"url": "fail"}
