"""A generator whose profiles lie on a Redis Cluster, from the settings to the command line."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pad_client import GeneratorClient, NotFoundError, UnavailableError
from pad_client.cli.app import app
from tests.conftest import RedisServer
from tests.e2e.processes import Service, fleet, until
from tests.redis_cluster import Cluster, ask, new_cluster

USERS = [f"user-{number}" for number in range(12)]  # on all nodes
PROMPT = {"prompt": "Hello", "max_tokens": 2, "strategy": "prompt"}


@pytest.fixture(scope="module")
def cluster(new_redis_server: Callable[..., RedisServer]) -> Cluster:
    return new_cluster(new_redis_server)


@pytest.fixture
def generator(models_dir: Path, tmp_path: Path, cluster: Cluster) -> Iterator[Service]:
    settings = {"GENERATOR_REDIS_CLUSTER": "true", "GENERATOR_PROFILE_TTL_S": "0"}
    with fleet(models_dir, tmp_path, cluster.url, num_rewards=0, **settings) as services:
        yield services.generators[0]


def pad(service: Service, *arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "-s", service.address])
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_profiles_live_on_all_nodes_and_a_lost_one_touches_its_own(
    generator: Service, cluster: Cluster, tmp_path: Path
) -> None:
    lost = cluster.owner("pad:v1:{default:user-0}:profile")
    one_node = f"redis://127.0.0.1:{lost.port}"
    right = generator.environment | {"GENERATOR_REDIS_CLUSTER": "true"}
    generator.environment |= {"GENERATOR_REDIS_CLUSTER": "false", "GENERATOR_REDIS_URL": one_node}
    generator.launch()
    assert generator.process.wait(120) == 2
    assert '"event": "cannot start"' in generator.log
    assert "GENERATOR_REDIS_CLUSTER: must be true" in generator.log

    generator.environment = right
    generator.launch()
    generator.wait_until_serving()
    file = str(tmp_path / "profiles.jsonl")
    with GeneratorClient(generator.address, timeout_s=20) as client:
        for user in USERS:
            client.put_profile(user, ["Be brief."])
        assert min(len(ask(its, "KEYS", "*:profile")) for its in cluster.primaries) > 0
        pad(generator, "profile", "export", file)
        for user in USERS:
            client.delete_profile(user)
        assert list(client.list_profiles()) == []
        assert [ask(its, "KEYS", "*:profile") for its in cluster.primaries] == [[], [], []]
        pad(generator, "profile", "import", file)
        assert [its.user_id for its in client.list_profiles(page_size=5)] == sorted(USERS)
        client.put_profile("user-0", ["Be kind."])
        assert "Be kind." in pad(generator, "profile", "get", "user-0")
        assert client.restore_profile("user-0", 2).preferences[0].text == "Be brief."
        answers = {user: client.complete(user_id=user, **PROMPT).text for user in USERS}

        lost.stop()
        victims = {its for its in USERS if is_on(cluster, lost, its)}
        assert 0 < len(victims) < len(USERS)
        for user in USERS:  # of a copy, where it must be
            assert client.complete(user_id=user, **PROMPT).text == answers[user]
            if user not in victims:
                assert client.get_profile(user).user_id == user
        with pytest.raises(UnavailableError, match="profile store"):
            client.get_profile("user-0")
        assert generator.metric("pad_profile_store_up") == 0
        lost.start()  # empty
        until(lambda: generator.metric("pad_profile_store_up") == 1, "the node to be back")

        def is_found() -> bool:
            try:
                client.get_profile("user-0")
            except (NotFoundError, UnavailableError) as error:
                return isinstance(error, NotFoundError)
            raise AssertionError("a lost profile was found")

        until(is_found, "the cluster to serve it again")
    assert generator.stop() == 0


def is_on(cluster: Cluster, server: RedisServer, user: str) -> bool:
    return cluster.owner(f"pad:v1:{{default:{user}}}:profile") is server
