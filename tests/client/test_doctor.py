"""`pad doctor`: each thing is broken for real, and the advice is read."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from pad_client.cli.app import app
from pad_client.doctor import Finding, Level, ModelFolders, Server, keys, machine, models, packages
from pad_client.doctor.child import ask_child
from pad_client.doctor.server import check_server
from pad_client.tokens import TokenScope, new_token
from tests.client.conftest import Pad
from tests.client.fake_server import FakeServer
from tests.tls_keys import Authority, Pair

ROOT = Path(__file__).resolve().parents[2]


def by_check(findings: Iterable[Finding]) -> dict[str, Finding]:
    found = {each.check: each for each in findings}
    assert all(bool(each.advice) is (each.level is not Level.OK) for each in found.values())
    assert not any("\n" in each.advice for each in found.values())
    return found


def levels(findings: Iterable[Finding]) -> dict[str, str]:
    return {name: each.level.value for name, each in by_check(findings).items()}


@pytest.fixture
def folders(tmp_path: Path) -> ModelFolders:
    """Links to the bundled models, to be broken one file at a time."""
    made = []
    for name in ("demo-base", "demo-persrm"):
        (tmp_path / name).mkdir()
        for file in (ROOT / "models" / name).iterdir():
            (tmp_path / name / file.name).symlink_to(file)
        made.append(tmp_path / name)
    return ModelFolders(*made)


def replace(path: Path, content: str | bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_bundled_models_are_well(folders: ModelFolders) -> None:
    assert set(levels(models.check_models(folders)).values()) == {"ok"}


def test_tokenizer_of_another_model_is_found(folders: ModelFolders) -> None:
    path = folders.persrm / "tokenizer.json"
    values = json.loads(path.read_text())
    words = values["model"]["vocab"]
    first, second = sorted(words)[-2:]
    words[first], words[second] = words[second], words[first]
    replace(path, json.dumps(values))
    found = by_check(models.check_models(folders))["models.tokenizers"]
    assert found.level is Level.FAIL
    assert "models of one tokenizer" in found.advice


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("model.safetensors", b"", "cut short"),
        ("model.safetensors", b"\xff" * 16, "cut short"),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}", "cut short"),
        ("config.json", b"{", "save_pretrained"),
        ("config.json", b"{}", "save_pretrained"),
        ("config.json", None, "save_pretrained"),
        ("model.safetensors", None, "get the file again"),
    ],
)
def test_broken_model_is_found_with_its_remedy(
    folders: ModelFolders, name: str, content: bytes | None, advice: str
) -> None:
    path = folders.base / name
    if content is None:
        path.unlink()
    else:
        replace(path, content)
    found = by_check(models.check_models(folders))
    assert found["models.base"].level is Level.FAIL
    assert name in found["models.base"].found
    assert advice in found["models.base"].advice
    assert found["models.persrm"].level is Level.OK


def test_weights_that_were_cut_short_are_found(folders: ModelFolders) -> None:
    path = folders.base / "model.safetensors"
    replace(path, path.read_bytes()[:-1])
    assert (
        "must have 10013128 bytes, has 10013127"
        in by_check(models.check_models(folders))["models.base"].found
    )


def test_pickled_weights_are_to_be_converted(folders: ModelFolders) -> None:
    (folders.base / "model.safetensors").unlink()
    (folders.base / "pytorch_model.bin").touch()
    found = by_check(models.check_models(folders))["models.base"]
    assert "convert" in found.advice


def test_head_that_a_conditioning_needs_is_missed(folders: ModelFolders) -> None:
    replace(folders.persrm / "pad_config.json", '{"stage": 2, "conditioning": "vector"}')
    assert levels(models.check_models(folders))["models.pad_config"] == "ok"
    (folders.persrm / "vector_head.safetensors").unlink()
    found = by_check(models.check_models(folders))["models.pad_config"]
    assert "vector_head.safetensors" in found.found
    assert found.level is Level.FAIL


def test_model_without_a_chat_template_is_a_warning(folders: ModelFolders) -> None:
    replace(folders.base / "tokenizer_config.json", "{}")
    found = by_check(models.check_models(folders))["models.chat_template"]
    assert found.level is Level.WARN
    (folders.base / "chat_template.jinja").write_text("{{ messages }}")
    assert levels(models.check_models(folders))["models.chat_template"] == "ok"


def test_folder_that_is_not_there_is_said_with_the_option(tmp_path: Path) -> None:
    found = by_check(models.check_models(ModelFolders(tmp_path / "a", tmp_path / "b")))
    assert "--models" in found["models.base"].advice
    assert set(found) == {"models.base", "models.persrm"}


def test_missing_redis_is_said_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert levels(machine.check_redis()) == {"machine.redis": "ok"}
    broken = tmp_path / "redis-server"
    broken.write_text("no program")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = by_check(machine.check_redis())["machine.redis"]
    assert found.level is Level.FAIL
    assert "cannot be run" in found.found


def test_memory_is_what_the_container_leaves(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 5 kB\n")
    assert machine.available_memory(tmp_path) == 5 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("4096\n")
    (group / "memory.current").write_text("96\n")
    assert machine.available_memory(tmp_path) == 4000
    (group / "memory.max").write_text("max\n")
    assert machine.available_memory(tmp_path) == 5 * 1024


def test_models_too_large_for_the_machine_are_a_warning() -> None:
    found = by_check(machine.check_room(10**15))
    assert found["machine.memory"].level is Level.WARN


def test_clock_that_is_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels(machine.check_clock()) == {"machine.clock": "ok"}
    monkeypatch.setattr("time.time", lambda: 0.0)
    found = by_check(machine.check_clock())["machine.clock"]
    assert (found.level, "set the clock" in found.advice) == (Level.FAIL, True)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Authority(tmp_path, "ca").issue("server", "DNS:pad.test")


def service_keys(pair: Pair) -> dict[str, str]:
    return {
        "GENERATOR_TLS_CERT_FILE": str(pair.cert),
        "GENERATOR_TLS_KEY_FILE": str(pair.key),
    }


def test_certificate_that_ends_soon_is_a_warning_with_its_end(pair: Pair) -> None:
    found = by_check(keys.check_service_keys(service_keys(pair)))
    assert found["keys.GENERATOR_TLS_CERT_FILE"].level is Level.WARN
    assert "valid until 2" in found["keys.GENERATOR_TLS_CERT_FILE"].found


def test_expired_certificate_is_found(pair: Pair) -> None:
    request = pair.cert.with_suffix(".csr")
    for command in (
        ["req", "-new", "-key", pair.key, "-subj", "/CN=a", "-out", request],
        ["x509", "-req", "-in", request, "-signkey", pair.key, "-days", "-1", "-out", pair.cert],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    found = by_check(keys.check_service_keys(service_keys(pair)))["keys.GENERATOR_TLS_CERT_FILE"]
    assert (found.level, "expired" in found.found) == (Level.FAIL, True)
    assert "issue it again" in found.advice
    client = {"ca_file": pair.cert, "cert_file": pair.cert, "key_file": pair.key}
    assert set(levels(keys.check_client_keys(client)).values()) == {"fail"}


def test_key_of_another_certificate_is_found(pair: Pair, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "ca").issue("server")
    shutil.copy(other.key, pair.key)
    found = by_check(keys.check_service_keys(service_keys(pair)))["keys.GENERATOR_TLS_CERT_FILE"]
    assert (found.level, "no pair" in found.found) == (Level.FAIL, True)


def test_secrets_that_others_can_read_are_warnings(pair: Pair, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("pad_abc\n")
    for mode, level in ((0o644, Level.WARN), (0o600, Level.OK)):
        for path in (token, pair.key):
            path.chmod(mode)
        found = by_check(keys.check_client_keys({"token_file": token}))
        assert found["keys.token_file"].level is level
        found |= by_check(keys.check_service_keys(service_keys(pair)))
        assert ("keys.GENERATOR_TLS_CERT_FILE.mode" in found) is (level is Level.WARN)
    assert f"chmod 600 {token}" not in found["keys.token_file"].advice


def test_a_secret_where_its_file_should_be_named_is_not_shown() -> None:
    variables = {
        "GENERATOR_REDIS_PASSWORD_FILE": "hunter2",
        "PLAYGROUND_TOKEN_FILE": "pad_hunter2",
        "GENERATOR_TOKENS_FILE": "hunter2",
    }
    found = by_check(keys.check_service_keys(variables))
    assert {each.level for each in found.values()} == {Level.FAIL}
    secrets = [found[f"keys.{name}"] for name in list(variables)[:2]]
    assert "hunter2" not in repr(secrets)


def test_file_that_is_not_there_or_is_none_is_found(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    variables = {
        "GENERATOR_REWARD_CA_FILE": str(tmp_path / "empty"),
        "GENERATOR_REWARD_TOKEN_FILE": str(tmp_path / "empty"),
        "REWARD_TOKENS_FILE": str(tmp_path / "nowhere"),
        "REWARD_TLS_CERT_FILE": str(tmp_path / "nowhere"),
        "REWARD_TLS_KEY_FILE": str(tmp_path / "nowhere"),
    }
    found = levels(keys.check_service_keys(variables))
    assert set(found.values()) == {"fail"}
    assert len(found) == 4


def test_expired_token_is_named(tmp_path: Path) -> None:
    lines = [
        new_token("acme", name, [TokenScope.GENERATE], timedelta(days=days)).line
        for name, days in (("web", 9), ("old", -1))
    ]
    path = tmp_path / "tokens"
    path.write_text("# of acme\n" + "\n".join(lines) + "\n")
    found = by_check(keys.check_service_keys({"GENERATOR_TOKENS_FILE": str(path)}))
    assert "expired: old" in found["keys.GENERATOR_TOKENS_FILE"].found


def site_without(folder: Path, *missing: str) -> list[str]:
    """Return a path for imports with everything that is installed here but some packages."""
    for entry in map(Path, reversed(sys.path)):
        if entry.name != "site-packages":
            continue
        for item in entry.iterdir():
            is_missing = item.name.lower().startswith(tuple(f"{name}-" for name in missing))
            link = folder / item.name
            if not is_missing and item.name not in missing and not link.exists():
                link.symlink_to(item)
    for package in ("client/pad_client", "protos/pad"):
        (folder / Path(package).name).symlink_to(ROOT / package)
    return [str(folder)]


def packages_without(folder: Path, *missing: str) -> dict[str, Finding]:
    """Return what a fresh interpreter says where these packages are not installed."""
    folder.mkdir()
    script = f"""
import sys
sys.path[:0] = {site_without(folder, *missing)}
import dataclasses, json
from pad_client.doctor import packages
found = [*packages.check_python(), *packages.check_packages()]
print(json.dumps([dataclasses.asdict(each) for each in found]))
"""
    # -S: without the site packages of this environment.
    command = [sys.executable, "-I", "-S", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [{**row, "level": Level(row["level"])} for row in json.loads(done.stdout)]
    return by_check(Finding(**row) for row in rows)


def test_missing_package_is_named_with_the_extra_that_has_it(tmp_path: Path) -> None:
    found = packages_without(tmp_path / "one", "torch")
    assert "torch" in found["packages.server"].found
    assert found["packages.server"].level is Level.FAIL
    assert "'.[server]'" in found["packages.server"].advice
    assert found["packages.cli"].level is Level.OK
    assert found["packages.edge"].level is Level.OK


def test_extra_that_nobody_asked_for_is_not_missed(tmp_path: Path) -> None:
    found = packages_without(tmp_path / "two", "torch", "transformers", "fastapi", "uvicorn")
    assert found["packages.server"].level is Level.WARN
    assert found["packages.edge"].level is Level.OK
    assert "not installed" in found["packages.edge"].found


def test_client_that_is_only_on_a_path_is_found(tmp_path: Path) -> None:
    """What asks for its version must not fail for lack of it."""
    found = packages_without(tmp_path / "three", "pad_client")
    assert set(found) == {"packages.client"}
    assert found["packages.client"].level is Level.FAIL


def imports() -> Iterable[Finding]:
    wanted = packages.modules()
    return packages.check_imports(wanted, ask_child(wanted, {}))


def test_package_that_is_there_but_broken_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = dict.fromkeys(packages._MARKS, ()) | {"server": ("redis",)}
    monkeypatch.setattr(packages, "_MODULES", modules)
    assert levels(imports()) == {"packages.imports": "ok"}
    (tmp_path / "redis.py").write_text("raise ImportError('libredis.so: cannot open')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    found = by_check(imports())["packages.imports"]
    assert "redis: ImportError: libredis.so" in found.found
    assert "--force-reinstall" in found.advice
    (tmp_path / "redis.py").write_text("import os; os.abort()")
    assert "ended with -6" in by_check(imports())["packages.imports"].found


def test_packages_here_are_as_asked_for() -> None:
    assert "fail" not in levels([*packages.check_python(), *packages.check_packages()]).values()


async def ask(address: str, *, is_wanted: bool = True) -> dict[str, Finding]:
    server = Server(address, is_wanted=is_wanted, timeout_s=2.0, access={})
    return await asyncio.to_thread(lambda: by_check(check_server(server)))


async def test_server_is_asked_for_all_that_a_request_needs(address: str) -> None:
    found = await ask(address)
    assert found["server.version"].level is Level.OK
    assert found["server.replicas"].found == "1 of 1 available"
    assert found["server.store"].level is Level.OK
    assert "a guided token" in found["server.answer"].found
    # The fake has no health service.
    assert "NOT_SERVING" in found["server.health"].found


async def test_server_of_another_version_is_a_warning(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pad_client.doctor.server.client_version", lambda: "9.9.9")
    assert (await ask(address))["server.version"].level is Level.WARN


class Storeless(FakeServer):
    """Has lost its profile store."""

    async def GetProfile(self, request: Any, context: Any) -> Any:
        trailing = (("x-request-id", "r-1"),)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "store: does not answer", trailing)


class TestWithoutAStore:
    @pytest.fixture
    def fake(self) -> FakeServer:
        return Storeless()

    async def test_lost_store_is_found(self, address: str) -> None:
        found = await ask(address)
        assert found["server.store"].level is Level.FAIL
        assert "GENERATOR_REDIS_URL" in found["server.store"].advice
        assert found["server.answer"].level is Level.OK


async def test_server_that_is_not_there_matters_if_it_was_named() -> None:
    assert (await ask("127.0.0.1:1"))["server"].level is Level.FAIL
    found = (await ask("127.0.0.1:1", is_wanted=False))["server"]
    assert (found.level, "`pad up`" in found.advice) == (Level.WARN, True)


async def test_something_else_at_the_address_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        server = Server(address, is_wanted=False, timeout_s=0.3, access={})
        found = (await asyncio.to_thread(lambda: by_check(check_server(server))))["server"]
    assert (found.level, "what listens there" in found.advice) == (Level.FAIL, True)


async def test_command_prints_a_table_or_json_and_fails_with_a_failure(pad: Pad) -> None:
    table = await pad("doctor", "--quick")
    assert "server.answer" in table.stdout
    assert " fail" in table.stdout.splitlines()[-1]
    lines = (await pad("doctor", "--quick", "--json")).stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert set(rows[0]) == {"check", "level", "found", "advice"}
    failed = await pad("doctor", "--quick", "--models", "/nowhere")
    assert failed.exit_code == 1
    assert "-> name the folder of both with --models" in failed.stdout


def test_command_without_a_server_is_no_failure_of_its_own() -> None:
    result = CliRunner().invoke(app, ["doctor", "--quick", "--json"], env={"PAD_SERVER": None})
    levels = {row["check"]: row["level"] for row in map(json.loads, result.stdout.splitlines())}
    assert levels.get("server", "warn") == "warn"


@pytest.mark.parametrize(("set_one", "missing"), [("CERT", "KEY"), ("KEY", "CERT")])
def test_a_certificate_without_its_key_is_told_as_no_service_starts_with_it(
    set_one: str, missing: str, tmp_path: Path
) -> None:
    environment = {f"GENERATOR_TLS_{set_one}_FILE": str(tmp_path / "one.pem")}
    found = by_check(keys.check_service_keys(environment))["keys.GENERATOR_TLS_CERT_FILE"]
    assert found.level is Level.FAIL
    assert f"GENERATOR_TLS_{missing}_FILE is not" in found.found
    options = {f"{set_one.lower()}_file": str(tmp_path / "one.pem")}
    assert by_check(keys.check_client_keys(options))["keys.cert_file"].level is Level.FAIL
