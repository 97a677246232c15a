import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from urllib.parse import urlsplit

import pytest
import yaml

from edge_svc.settings import EdgeSettings
from playground_svc.settings import PlaygroundSettings
from svc_common.settings import load_settings
from tests.deploy.stack import (
    FRONTS,
    GPU,
    MAIN,
    ROOT,
    SECRETS,
    SETTINGS,
    default_metrics_port,
    default_port,
    load_compose,
    mounts,
    seconds,
    variables,
)

FILES = {
    "main": [MAIN],
    "gpu": [MAIN, GPU],
    "secrets": [MAIN, SECRETS],
    "all": [MAIN, GPU, SECRETS],
}


@pytest.fixture(params=FILES)
def compose(request):
    return load_compose(*FILES[request.param])


@pytest.fixture
def services(compose):
    return compose["services"]


def settings_of(services, name):
    prefix, cls = SETTINGS[name]
    return load_settings(cls, prefix, services[name]["environment"])


@pytest.mark.parametrize("names", [[GPU], [SECRETS], *FILES.values()])
def test_files_follow_the_compose_specification(names, tmp_path):
    path = tmp_path / "compose.yml"
    path.write_text(yaml.safe_dump(load_compose(*names)))
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("names", FILES.values(), ids=FILES)
def test_compose_itself_accepts_the_files(names):
    arguments = [word for name in names for word in ("-f", name)]
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and _runs([*command, "version"]):
            assert _runs([*command, *arguments, "config", "-q"])
            return
    pytest.skip("needs docker compose or docker-compose")


def _runs(command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_services_wait_for_services_that_are_there_and_report_health(services):
    for name, service in services.items():
        for target, how in service.get("depends_on", {}).items():
            assert target in services, name
            assert set(services[target].get("profiles", [])) <= set(service.get("profiles", []))
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in services[target], target


@pytest.mark.parametrize("kind", ["networks", "secrets", "configs"])
def test_what_services_name_is_declared_and_what_is_declared_is_named(compose, kind):
    named = {name for service in compose["services"].values() for name in service.get(kind, [])}
    assert named == set(compose.get(kind, {}))


def test_volumes_are_declared_or_paths_that_exist(compose):
    sources = {source for service in compose["services"].values() for source, _ in mounts(service)}
    paths = {source for source in sources if source.startswith(".")}
    assert sources - paths == set(compose["volumes"])
    for path in paths:
        assert (ROOT / path).exists(), path


def test_what_only_some_want_is_in_a_profile(services):
    profiles = {
        name: service["profiles"] for name, service in services.items() if "profiles" in service
    }
    assert profiles == {
        "prometheus": ["observability"],
        "grafana": ["observability"],
        "edge": ["edge"],
        "playground": ["playground"],
        "jaeger": ["tracing"],
    }


def test_environment_holds_settings_of_the_service_and_nothing_else(services):
    for name, service in services.items():
        if name in SETTINGS:
            settings_of(services, name)
            assert all(
                variable.startswith(SETTINGS[name][0]) for variable in service["environment"]
            )
        else:
            prefix = f"{name.upper()}_" if name in FRONTS else "GF_"
            assert all(v.startswith(prefix) for v in service.get("environment", {})), name


def test_variables_of_the_operator_are_no_settings():
    """One exported as REWARD_MODEL stopped services started by hand: no such setting."""
    prefixes = tuple(prefix for prefix, _ in SETTINGS.values())
    for name in (MAIN, GPU, SECRETS):
        assert not [variable for variable in variables(name) if variable.startswith(prefixes)]


def test_generator_finds_reward_service_and_store(services):
    settings = settings_of(services, "generator")
    assert settings.reward_targets == (f"reward:{default_port('reward')}",)
    store = urlsplit(settings.redis_url)
    assert (store.hostname, store.port) == ("redis", 6379)
    for name in ("reward", "redis"):
        assert set(services[name]["networks"]) & set(services["generator"]["networks"])


def test_models_are_mounted_read_only_from_folders_that_exist(services):
    rewards = settings_of(services, "reward")
    folders = {
        "generator": [settings_of(services, "generator").model_dir],
        "reward": [rewards.model_dir, rewards.backbone_dir],
    }
    for name, inside in folders.items():
        assert services[name]["volumes"] == ["./models:/models:ro"]
        for folder in inside:
            assert str(folder).startswith("/models/")
            assert (ROOT / str(folder).lstrip("/")).is_dir(), folder


def test_generator_alone_is_published_and_only_to_this_machine(services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    ports = (default_port("generator"), default_metrics_port("generator"))
    assert published == {
        "generator": [f"127.0.0.1:{port}:{port}" for port in ports],
        "edge": ["127.0.0.1:8000:8000"],
        "playground": ["127.0.0.1:8080:8080"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
        "jaeger": ["127.0.0.1:16686:16686"],
    }


def test_reward_service_can_be_scaled(services):
    assert not {"container_name", "ports", "hostname"} & set(services["reward"])


def test_reward_service_and_store_are_reached_from_their_networks_alone(compose):
    for name, network in (("reward", "backend"), ("redis", "store")):
        assert compose["services"][name]["networks"] == [network]
        assert compose["networks"][network] == {"internal": True}
    members = [name for name, its in compose["services"].items() if "store" in its["networks"]]
    assert sorted(members) == ["generator", "redis"]  # nobody else reads profiles


@pytest.mark.parametrize("name", SETTINGS)
def test_health_check_asks_the_port_the_service_listens_on(services, name):
    check = services[name]["healthcheck"]
    *command, address = check["test"]
    assert command == ["CMD", "python", "-m", "svc_common.healthcheck"]
    assert find_spec(command[-1]) is not None
    assert address == f"127.0.0.1:{default_port(name)}"
    assert seconds(check["start_period"]) >= 300


@pytest.mark.parametrize("name", SETTINGS)
def test_drain_ends_before_the_container_is_killed(services, name):
    drain_s = settings_of(services, name).drain_s
    assert seconds(services[name]["stop_grace_period"]) >= drain_s + 10


def test_containers_can_change_nothing_but_their_volumes(services):
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["init"] is True, name
        assert service["tmpfs"] == ["/tmp:size=256m,mode=1777,nosuid,nodev"], name
        assert 0 < service["pids_limit"] <= 1024, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        for door in (
            "privileged",
            "cap_add",
            "devices",
            "pid",
            "ipc",
            "network_mode",
            "userns_mode",
        ):
            assert door not in service, name
        assert not [source for source, _ in mounts(service) if "docker.sock" in source], name


def test_what_containers_mount_from_this_machine_is_read_only(services):
    for name, service in services.items():
        for volume in service.get("volumes", []):
            is_path = volume.startswith((".", "/"))
            assert volume.endswith(":ro") == is_path, (name, volume)


def test_no_secret_stands_in_an_environment_or_a_command(services):
    """Any process of the container reads them, and `docker inspect` shows them."""
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            words = ("PASSWORD", "SECRET", "TOKEN", "KEY", "CREDENTIAL")
            is_secret = any(word in variable for word in words) and not variable.endswith("_FILE")
            assert not is_secret, (name, variable)
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), (name, variable)
        assert not re.search("requirepass|masterauth|--user", str(service.get("command"))), name


def test_foreign_images_are_pinned_and_run_without_root(services):
    images = {name: service for name, service in services.items() if "build" not in service}
    assert set(images) == {"redis", "prometheus", "grafana", "jaeger"}
    for name, service in images.items():
        tag = service["image"].partition(":")[2].lstrip("v")
        assert tag.count(".") == 2, name
        assert service["user"] not in ("root", "0", 0), name


def test_gpu_override_gives_each_service_a_device_of_its_own():
    services = load_compose(MAIN, GPU)["services"]
    device_ids = []
    for name in SETTINGS:
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert device["capabilities"] == ["gpu"]
        device_ids += device["device_ids"]
        assert settings_of(services, name).device == "cuda:0"
    assert len(device_ids) == len(set(device_ids)) == 2


def test_without_the_override_no_gpu_is_asked_for():
    services = load_compose(MAIN)["services"]
    assert not [name for name, service in services.items() if "deploy" in service]
    assert {settings_of(services, name).device for name in SETTINGS} == {"cpu"}


def test_with_secrets_redis_knows_users_and_the_generator_is_one():
    plain, services = (load_compose(*FILES[name])["services"] for name in ("main", "secrets"))
    settings = settings_of(services, "generator")
    assert settings.redis_password_file == "/run/secrets/redis_password"
    command = services["redis"]["command"]
    assert command == [*plain["redis"]["command"], "--aclfile", "/run/secrets/redis_users"]
    assert services["generator"]["secrets"] == ["redis_password"]
    assert services["redis"]["secrets"] == ["redis_users"]
    assert "secrets" not in services["reward"]


def test_secrets_are_files_outside_of_the_repository_and_of_images():
    for secret in load_compose(MAIN, SECRETS)["secrets"].values():
        assert set(secret) == {"file"}
        assert secret["file"].startswith("./secrets/")
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_edge_finds_the_generator_and_listens_where_it_is_published(services):
    edge = services["edge"]
    settings = load_settings(EdgeSettings, "EDGE_", edge["environment"])
    assert settings.generator == (f"generator:{default_port('generator')}",)
    assert set(edge["networks"]) & set(services["generator"]["networks"])
    assert settings.listen.rpartition(":")[2] == edge["ports"][0].rpartition(":")[2]
    assert seconds(edge["stop_grace_period"]) >= settings.drain_s + 10


def test_the_playground_finds_the_generator_and_is_reached_from_this_machine_alone(services):
    page = services["playground"]
    settings = load_settings(PlaygroundSettings, "PLAYGROUND_", page["environment"])
    assert settings.generator == (f"generator:{default_port('generator')}",)
    assert settings.shown_generator in services["generator"]["ports"][0]
    assert set(page["networks"]) & set(services["generator"]["networks"])
    assert page["ports"] == [f"127.0.0.1:8080:{settings.listen.rpartition(':')[2]}"]
    assert seconds(page["stop_grace_period"]) >= settings.drain_s + 10
    # Not even where the others are published: whoever reaches it writes profiles.
    text = (ROOT / MAIN).read_text()
    assert text.count("PUBLISH_ADDRESS:-") == sum(
        len(services[name]["ports"]) for name in ("generator", "edge")
    )


def test_traces_are_off_until_the_operator_names_a_collector(services):
    for name in SETTINGS:
        assert settings_of(services, name).traces_endpoint == ""


def test_all_services_send_traces_to_the_one_collector_and_reach_it():
    """As the head of the file says: TRACES_ENDPOINT=jaeger:4317."""
    text = (ROOT / MAIN).read_text()
    (command,) = re.findall("TRACES_ENDPOINT=(\\S+) docker compose --profile tracing up", text)
    services = load_compose(MAIN)["services"]
    host = command.partition(":")[0]
    assert services[host]["profiles"] == ["tracing"]
    assert command.endswith(":4317")  # of OTLP over gRPC
    for name, prefix in (("generator", "GENERATOR_"), ("reward", "REWARD_"), ("edge", "EDGE_")):
        assert set(services[name]["networks"]) & set(services[host]["networks"]), name
        assert f'{prefix}TRACES_ENDPOINT: "${{TRACES_ENDPOINT:-}}"' in text


@pytest.mark.parametrize("name", ["generator", "reward", "edge"])
def test_images_have_what_traces_need(name):
    assert ",tracing]" in (ROOT / f"deploy/Dockerfile.{name}").read_text()
