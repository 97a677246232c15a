"""`pad doctor` on files that settings name: what stands there instead, and what is not read."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pad_client.cli.app import app
from pad_client.doctor import Level, packages
from pad_client.doctor.keys import SERVICE_KEY_FILES, check_client_keys, check_service_keys
from pad_client.doctor.settings import check_settings
from pad_client.doctor.store import check_store
from tests.client.test_doctor import by_check
from tests.client.test_doctor_settings import SECRET, right

PEM = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("content", [PEM, PEM.replace("\n", " "), SECRET * 8])
def test_what_belongs_into_a_file_is_not_shown_where_the_file_should_be_named(
    content: str, tmp_path: Path
) -> None:
    """Once a private key in place of its path was printed whole."""
    file = tmp_path / "cert.pem"
    file.touch()
    for name in (
        *SERVICE_KEY_FILES,
        *("GENERATOR_TENANT_LIMITS_FILE", "GENERATOR_GUIDELINES_FILE", "PLAYGROUND_PRESETS"),
        *("REWARD_BACKBONE_DIR", "GENERATOR_TRACES_ENDPOINT", "GENERATOR_TENANT"),
    ):
        variables = {**right(tmp_path), "PLAYGROUND_GENERATOR": "127.0.0.1:1", name: content}
        if name.endswith("_KEY_FILE"):
            variables[name.replace("_KEY_", "_CERT_")] = str(file)
        found = [*check_settings(variables), *check_service_keys(variables)]
        assert any(each.level is Level.FAIL for each in found), name
        assert SECRET not in repr(found)
        assert "-----" not in repr(found)
    for option in ("ca_file", "token_file"):
        assert SECRET not in repr(list(check_client_keys({option: content})))
    pair = {"cert_file": str(file), "key_file": content}
    assert SECRET not in repr(list(check_client_keys(pair)))


def test_a_token_in_place_of_its_servers_file_is_not_shown() -> None:
    found = list(check_service_keys({"REWARD_TOKENS_FILE": SECRET}))
    assert [each.level for each in found] == [Level.FAIL]
    assert SECRET not in repr(found)


@pytest.mark.parametrize("name", [*SERVICE_KEY_FILES, "PLAYGROUND_PRESETS"])
def test_a_pipe_is_told_and_never_read(name: str, tmp_path: Path) -> None:
    """Once the examination waited for somebody to write into it, for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    variables = {**right(tmp_path), "PLAYGROUND_GENERATOR": "127.0.0.1:1", name: str(pipe)}
    found = [*check_settings(variables), *check_service_keys(variables), *check_store(variables)]
    failed = [each for each in found if each.level is Level.FAIL and "pipe" in each.found]
    assert [each.check.partition(".")[2] for each in failed] == [name]


def test_a_callers_pipe_is_left_to_the_call(tmp_path: Path) -> None:
    """As of `--token-file <(pass show pad)`: who reads it first takes it from the others."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    options = ("ca_file", "cert_file", "key_file", "token_file")
    found = by_check(check_client_keys(dict.fromkeys(options, str(pipe))))
    assert {name: each.level for name, each in found.items()} == {
        f"keys.{option}": Level.WARN for option in options
    }


def test_a_password_of_the_store_may_be_any_text(tmp_path: Path) -> None:
    """As the service takes it; once only ASCII was."""
    path = tmp_path / "password"
    path.write_text("größer", encoding="utf-8")
    path.chmod(0o600)
    (finding,) = check_service_keys({"GENERATOR_REDIS_PASSWORD_FILE": str(path)})
    assert finding.level is Level.OK
    (finding,) = check_service_keys({"GENERATOR_REWARD_TOKEN_FILE": str(path)})
    assert finding.level is Level.FAIL


def test_bytes_that_are_no_text_can_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a path that was no UTF-8 ended the command in a traceback."""
    monkeypatch.setattr(packages, "_MODULES", dict.fromkeys(packages._MARKS, ()))
    name = os.fsdecode(b"\xff\xfe")
    for variable in ("GENERATOR_TENANT_LIMITS_FILE", "GENERATOR_MODEL_DIR", "EDGE_TLS_CERT_FILE"):
        monkeypatch.setenv(variable, name)
    for options in ([], ["--json"]):
        result = CliRunner().invoke(app, ["doctor", *options])
        assert (result.exit_code, type(result.exception)) == (1, SystemExit)
        assert "\\udcff\\udcfe" in result.stdout.replace("\\\\", "\\")
