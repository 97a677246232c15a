"""The files that lay TLS and tokens over the system, read as compose and the services read them."""

import re
import shutil
import subprocess
import sys

import pytest
import yaml

from edge_svc.generator import open_line, passes_tokens
from edge_svc.open_connections import OpenConnections
from edge_svc.server import server_config
from edge_svc.settings import EdgeSettings
from generator_svc.access import check_access as check_generator
from pad_client.tokens import TokenScope, new_token
from reward_svc.access import check_access as check_reward
from svc_common.settings import load_settings
from tests.deploy.stack import (
    ALL_SETTINGS,
    MAIN,
    ROOT,
    SETTINGS,
    load_compose,
    mounts,
    variables,
)
from tests.tls_keys import Authority

TLS = "docker-compose.tls.yml"
INSIDE = "/run/secrets/pad"


@pytest.fixture(scope="module")
def services():
    return load_compose(MAIN, TLS)["services"]


def environment_of_tls(name):
    return load_compose(TLS)["services"][name]["environment"]


def secret_files(name):
    """Return the files below the mounted folder that a service's settings name."""
    values = environment_of_tls(name).values()
    return {value.removeprefix(f"{INSIDE}/") for value in values if value.startswith(INSIDE)}


@pytest.mark.parametrize("names", [[TLS], [MAIN, TLS]], ids=["alone", "merged"])
def test_the_file_follows_the_compose_specification(names, tmp_path):
    path = tmp_path / "compose.yml"
    path.write_text(yaml.safe_dump(load_compose(*names)))
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_compose_itself_accepts_the_files():
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and runs([*command, "version"]):
            assert runs([*command, "-f", MAIN, "-f", TLS, "config", "-q"])
            return
    pytest.skip("needs docker compose or docker-compose")


def runs(command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_only_the_services_of_our_own_are_changed_and_only_in_this():
    services = load_compose(TLS)["services"]
    assert set(services) == set(ALL_SETTINGS)
    for name, service in services.items():
        assert set(service) == {"environment", "volumes", "healthcheck"}
        prefix = ALL_SETTINGS[name][0]
        assert all(variable.startswith(prefix) for variable in service["environment"])
    prefixes = tuple(prefix for prefix, _ in ALL_SETTINGS.values())
    assert not [variable for variable in variables(TLS) if variable.startswith(prefixes)]


@pytest.mark.parametrize("name", ALL_SETTINGS)
def test_secrets_are_files_of_a_folder_of_the_services_own_mounted_read_only(services, name):
    volumes = [volume for volume in services[name]["volumes"] if INSIDE in volume]
    assert volumes == [f"./secrets/{name}:{INSIDE}:ro"]
    assert ("./models" in dict(mounts(services[name]))) is (name in SETTINGS)
    for variable, value in environment_of_tls(name).items():
        is_file = variable.endswith("_FILE")
        assert is_file == value.startswith(f"{INSIDE}/"), variable


@pytest.mark.parametrize("name", ALL_SETTINGS)
def test_every_secret_file_is_explained_and_no_other(name):
    text = (ROOT / TLS).read_text()
    header = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    start = header.index(f"#   {name}/")
    next_folder = re.search(r"#   \w+/ ", header[start + 1 :])
    end = start + 1 + next_folder.start() if next_folder else header.index("# Folders are")
    block = header[start:end]
    lines = [
        re.split(r"\s{2,}", line.strip("# ").removeprefix(f"{name}/").strip(), maxsplit=1)
        for line in block.splitlines()
    ]
    explained = {file for words in lines for file in words[0].split()}
    assert explained == secret_files(name)


@pytest.mark.parametrize("name", SETTINGS)
def test_probes_go_to_the_port_that_asks_for_no_keys(services, name):
    prefix, cls = SETTINGS[name]
    settings = load_settings(cls, prefix, services[name]["environment"])
    address = services[name]["healthcheck"]["test"][-1]
    assert services[name]["healthcheck"]["test"][:-1] == [
        "CMD",
        "python",
        "-m",
        "svc_common.healthcheck",
    ]
    assert address == settings.health_listen
    assert address.startswith("127.0.0.1:")
    assert address.rpartition(":")[2] not in (
        settings.listen.rpartition(":")[2],
        str(settings.metrics_port),
    )
    assert services[name]["healthcheck"]["start_period"] == "600s"  # the rest stays


def test_files_as_explained_are_what_both_services_take(services, tmp_path):
    """Fills the folders as the comment says, and checks them as the services do at their start."""
    internal, public = Authority(tmp_path / "a", "internal"), Authority(tmp_path / "b", "public")
    score = new_token("pad", "generator", [TokenScope.SCORE], None)
    caller = new_token("acme", "web-1", [TokenScope.GENERATE], None)
    for name in SETTINGS:
        (tmp_path / name).mkdir()
        shutil.copy(internal.cert, tmp_path / name / "internal-ca.crt")
    generator, reward = tmp_path / "generator", tmp_path / "reward"
    public.issue("pad", "DNS:pad.example").move_to(generator / "tls.crt", generator / "tls.key")
    internal.issue("g", "DNS:generator").move_to(generator / "client.crt", generator / "client.key")
    internal.issue("r", "DNS:reward").move_to(reward / "tls.crt", reward / "tls.key")
    (generator / "tokens").write_text(caller.line)
    (generator / "reward-token").write_text(score.secret)
    (reward / "tokens").write_text(score.line)
    for name, check in (("generator", check_generator), ("reward", check_reward)):
        assert {path.name for path in (tmp_path / name).iterdir()} == secret_files(name)
        environment = {
            variable: value.replace(INSIDE, str(tmp_path / name))
            for variable, value in services[name]["environment"].items()
        }
        prefix, cls = SETTINGS[name]
        check(load_settings(cls, prefix, environment))


async def test_the_edge_takes_its_files_as_explained_and_reaches_the_generator(services, tmp_path):
    authority = Authority(tmp_path / "a", "public")
    authority.issue("edge", "DNS:edge.example").move_to(tmp_path / "tls.crt", tmp_path / "tls.key")
    shutil.copy(authority.cert, tmp_path / "generator-ca.crt")
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == secret_files("edge")
    environment = {
        variable: value.replace(INSIDE, str(tmp_path))
        for variable, value in services["edge"]["environment"].items()
    }
    settings = load_settings(EdgeSettings, "EDGE_", environment)
    assert server_config(settings, None, OpenConnections(2)).ssl is not None
    async with open_line(settings):
        assert passes_tokens(settings)
    (address,) = settings.generator
    named = f'must name "{address.partition(":")[0]}"'  # as it is called by that name
    assert named in (ROOT / TLS).read_text()
    assert "https://127.0.0.1:8000/readyz" in services["edge"]["healthcheck"]["test"][-1]


def test_rewards_are_reached_under_the_name_in_their_certificate(services):
    generator, reward = (services[name]["environment"] for name in ("generator", "reward"))
    text = (ROOT / TLS).read_text()
    assert f'named "{generator["GENERATOR_REWARD_SERVER_NAME"]}"' in text
    assert f'named "{reward["REWARD_ALLOWED_CLIENTS"]}"' in text


def test_secrets_are_kept_out_of_images_and_of_the_repository():
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    taken = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in taken
    assert not [line for line in taken if line.startswith("!") and "secrets" in line]
