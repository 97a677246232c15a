"""`pad doctor` on services' variables: each is set wrongly for real, and told with its rule."""

import dataclasses
import json
import os
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pad_client.cli.app import app
from pad_client.cli.console import program
from pad_client.doctor import Finding, Level, packages, settings
from pad_client.doctor.child import ask_child
from pad_client.doctor.keys import SERVICE_KEY_FILES
from pad_client.doctor.settings import check_settings
from pad_client.doctor.variables import PREFIXES, read_env_file, service_variables
from tests.client.conftest import Pad
from tests.client.test_doctor import by_check

SECRET = "s3cret-" + "x" * 40


def right(folder: Path) -> dict[str, str]:
    """Return variables with which both services would start."""
    return {
        "GENERATOR_MODEL_DIR": str(folder),
        "GENERATOR_REWARD_TARGETS": "127.0.0.1:50052",
        "GENERATOR_REDIS_URL": "redis://127.0.0.1:6379/0",
        "REWARD_MODEL_DIR": str(folder),
    }


def examine(variables: dict[str, str]) -> dict[str, Finding]:
    return by_check(check_settings(variables))


def test_variables_that_keep_to_their_rules_are_well(tmp_path: Path) -> None:
    found = examine({**right(tmp_path), "EDGE_GENERATOR": "127.0.0.1:50051"})
    assert {name: each.level for name, each in found.items()} == dict.fromkeys(
        ("settings.generator", "settings.reward", "settings.edge"), Level.OK
    )
    assert "3 variables GENERATOR_*" in found["settings.generator"].found
    assert examine({}) == {}


def test_every_mistake_is_told_not_the_first_alone(tmp_path: Path) -> None:
    found = examine(
        {
            **right(tmp_path),
            "GENERATOR_NUM_SLOTS": "0",
            "GENERATOR_DTYPE": "float8",
            "GENERATOR_MAX_TOKEN": "9",
            "REWARD_METRICS_PORT": "many",
            "PLAYGROUND_GENERATOR": "127.0.0.1:1",
            "PLAYGROUND_TLS": "yes",
        }
    )
    said = {name: each.found for name, each in found.items() if each.level is Level.FAIL}
    assert said == {
        "settings.GENERATOR_NUM_SLOTS": "GENERATOR_NUM_SLOTS: must be 1..1024, got 0",
        "settings.GENERATOR_DTYPE": "GENERATOR_DTYPE: must be float32 | bfloat16 | float16,"
        " got 'float8'",
        "settings.GENERATOR_MAX_TOKEN": "GENERATOR_MAX_TOKEN: is no setting of this service; did"
        " you mean GENERATOR_MAX_TOKENS?",
        "settings.REWARD_METRICS_PORT": "REWARD_METRICS_PORT: must be a whole number, got 'many'",
        "settings.PLAYGROUND_TLS": "PLAYGROUND_TLS: must be true or false, got 'yes'",
    }


@pytest.mark.parametrize(
    ("variable", "value", "rule"),
    [
        ("GENERATOR_LISTEN", "hello", "must be host:port, got 'hello'"),
        ("GENERATOR_HEALTH_LISTEN", "hello", "must be host:port, got 'hello'"),
        ("GENERATOR_REWARD_TARGETS", "rewardhost", "must be host:port or unix:path, got 'rewardho"),
        (
            "GENERATOR_REWARD_TARGETS",
            "reward:1,r:99999",
            "must be host:port or unix:path, got 'r:9",
        ),
        ("GENERATOR_REWARD_TARGETS", f"reward:1,{SECRET}", "must be host:port or unix:path, got a"),
        ("REWARD_LISTEN", "hello", "must be host:port, got 'hello'"),
        ("EDGE_LISTEN", "nonsense", "must be host:port, got 'nonsense'"),
        ("EDGE_GENERATOR", "localhost", "must be host:port, got 'localhost'"),
        ("PLAYGROUND_LISTEN", "8080", "must be host:port, got '8080'"),
        ("GENERATOR_DEVICE", "cuda:999", "must be a torch device of this machine (cpu"),
        ("REWARD_DEVICE", "cuda:999", "must be a torch device of this machine (cpu"),
    ],
)
def test_addresses_and_devices_are_judged(
    variable: str, value: str, rule: str, tmp_path: Path
) -> None:
    others = {"EDGE_GENERATOR": "127.0.0.1:1", "PLAYGROUND_GENERATOR": "127.0.0.1:1"}
    found = examine({**right(tmp_path), **others, variable: value})
    assert found[f"settings.{variable}"].level is Level.FAIL
    assert found[f"settings.{variable}"].found.startswith(f"{variable}: {rule}")
    assert SECRET not in repr(found)
    assert len([each for each in found.values() if each.level is Level.FAIL]) == 1


def test_one_variable_is_told_as_one() -> None:
    found = examine({"EDGE_GENERATOR": "127.0.0.1:1"})
    assert found["settings.edge"].found == "1 variable EDGE_* keeps to its rules"


def test_what_pad_up_would_set_is_missed_by_a_warning(tmp_path: Path) -> None:
    found = examine({"GENERATOR_MODEL_DIR": str(tmp_path)})
    assert {name: each.level for name, each in found.items()} == {
        "settings.GENERATOR_REWARD_TARGETS": Level.WARN,
        "settings.GENERATOR_REDIS_URL": Level.WARN,
    }
    advice = found["settings.GENERATOR_REDIS_URL"].advice
    assert "`pad up` starts the service, or both models are one process (colocated_svc)" in advice


@pytest.mark.parametrize(
    "name",
    [
        "GENERATOR_REDIS_PASSWORD",  # no setting at all
        "PLAYGROUND_ALLOW_PLAINTEXT_TOKEN",
        "GENERATOR_MAX_TOKENS",
        "EDGE_LOG_LEVEL",
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown(name: str, tmp_path: Path) -> None:
    found = examine({**right(tmp_path), name: SECRET})
    assert found[f"settings.{name}"].level is Level.FAIL
    assert SECRET not in repr(found)


@pytest.mark.parametrize("kind", ["missing", "folder", "unreadable", "pipe"])
def test_a_file_that_a_setting_names_must_be_there(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "unreadable":
        path.symlink_to(path)  # modes do not keep root from reading
    variables = {**right(tmp_path), "GENERATOR_TENANT_LIMITS_FILE": str(path)}
    finding = examine(variables)["settings.GENERATOR_TENANT_LIMITS_FILE"]
    assert finding.level is Level.FAIL
    assert finding.found.startswith(f"GENERATOR_TENANT_LIMITS_FILE: {path}: ")
    if kind != "pipe":
        if kind == "folder":
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_text("{}")
        assert examine(variables)["settings.generator"].level is Level.OK


def test_folders_and_presets_that_settings_name_must_be_there(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text("[Humour]\n")
    found = examine(
        {
            **right(tmp_path),
            "REWARD_BACKBONE_DIR": str(own),
            "GENERATOR_MODEL_DIR": "",
            "PLAYGROUND_GENERATOR": "127.0.0.1:1",
            "PLAYGROUND_PRESETS": str(own),
        }
    )
    assert "Not a directory" in found["settings.REWARD_BACKBONE_DIR"].found
    assert "must name a folder, is empty" in found["settings.GENERATOR_MODEL_DIR"].found
    assert "Humour: must be 1..32 of" in found["settings.PLAYGROUND_PRESETS"].found


@pytest.mark.parametrize(
    ("variables", "rule"),
    [
        ({"GENERATOR_TENANT": "a:b"}, "GENERATOR_TENANT: must be 1..64"),
        ({"GENERATOR_TENANT_LIMITS_FILE": "{file}"}, "TENANT_LIMITS_FILE: must be a readable JSON"),
        ({"GENERATOR_REWARD_SERVER_NAME": "r"}, "GENERATOR_REWARD_CA_FILE: must be set where"),
        (
            {"GENERATOR_REWARD_TOKEN_FILE": "{file}", "GENERATOR_REWARD_TARGETS": "far:50052"},
            "GENERATOR_REWARD_CA_FILE: must be set where GENERATOR_REWARD_TOKEN_FILE is",
        ),
        ({"REWARD_TRACES_CA_FILE": "{file}"}, "REWARD_TRACES_ENDPOINT: must be set where"),
    ],
)
def test_what_settings_say_together_is_judged_as_at_a_start(
    tmp_path: Path, variables: dict[str, str], rule: str
) -> None:
    file = tmp_path / "file"
    file.write_text(SECRET)
    given = {name: value.format(file=file) for name, value in variables.items()}
    found = examine({**right(tmp_path), **given})
    (failed,) = [each for each in found.values() if each.level is Level.FAIL]
    assert rule in failed.found
    assert SECRET not in failed.found


def test_a_secret_in_place_of_its_file_is_not_shown(tmp_path: Path) -> None:
    for name in ("GENERATOR_REWARD_TOKEN_FILE", "GENERATOR_REDIS_PASSWORD_FILE"):
        assert SECRET not in repr(examine({**right(tmp_path), name: SECRET}))


def test_a_service_that_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings._CLASSES, "EDGE_", ("no_such_service", "EdgeSettings", ""))
    finding = examine({"EDGE_GENERATOR": "127.0.0.1:1"})["settings.edge"]
    assert (finding.level, "not examined" in finding.found) == (Level.WARN, True)


def test_every_prefix_has_its_rules_and_every_key_and_secret_is_looked_at() -> None:
    """A setting that is new or renamed must not be passed over."""
    assert tuple(settings._CLASSES) == PREFIXES
    known = {
        f"{prefix}{field.name.upper()}"
        for prefix, (module, name, _) in settings._CLASSES.items()
        for field in dataclasses.fields(getattr(import_module(module), name))
    }
    kinds = ("_CERT_FILE", "_KEY_FILE", "_CA_FILE", "_TOKEN_FILE", "_TOKENS_FILE", "_PASSWORD_FILE")
    keys = {name for name in known if name.endswith(kinds)}
    assert len(keys) > 20
    assert keys <= set(SERVICE_KEY_FILES)


def test_a_child_examines_what_the_client_does_not_know(tmp_path: Path) -> None:
    told = ask_child(["json"], {"EDGE_GENERATOR": "127.0.0.1:1", "EDGE_LISTEM": SECRET})
    assert (told.failure, told.broken) == (None, {})
    found = by_check(told.findings)
    assert found["settings.EDGE_LISTEM"].level is Level.FAIL
    assert "did you mean EDGE_LISTEN?" in found["settings.EDGE_LISTEM"].found


# -- files of variables -------------------------------------------------------------------------


def test_files_are_read_as_containers_are_given_them(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text(
        "# a comment\n\nEDGE_GENERATOR=a:1,b:2\n export EDGE_LISTEN=x\n"
        "EDGE_CORS_ORIGINS=\"https://a\"\nEDGE_DRAIN_S='5'\nEDGE_TLS_KEY_FILE=\nPATH=/bin\n"
    )
    assert read_env_file(path) == {
        "EDGE_GENERATOR": "a:1,b:2",
        "EDGE_LISTEN": "x",
        "EDGE_CORS_ORIGINS": "https://a",
        "EDGE_DRAIN_S": "5",
        "EDGE_TLS_KEY_FILE": "",
        "PATH": "/bin",
    }
    later = tmp_path / "later"
    later.write_text("EDGE_DRAIN_S=6\n")
    read = service_variables({"EDGE_DRAIN_S": "4", "REWARD_X": "y", "PATH": "/"}, [path, later])
    assert (read["EDGE_DRAIN_S"], read["REWARD_X"]) == ("6", "y")
    assert "PATH" not in read


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (f"EDGE_GENERATOR=a\n{SECRET}\n", "line 2: must be NAME=VALUE"),
        (f"1EDGE={SECRET}\n", "line 1: must be NAME=VALUE"),
        (f'EDGE_GENERATOR="{SECRET}\n', "line 1: a quotation must end its line"),
        (f'EDGE_GENERATOR="{SECRET}" x\n', "line 1: a quotation must end its line"),
        (b"EDGE_GENERATOR=\xff\n", "must be text in UTF-8"),
        (b"EDGE_GENERATOR=\0\n", "must be text in UTF-8"),
        ("PATH=/bin\n", "must set GENERATOR_* or REWARD_* or EDGE_* or PLAYGROUND_*"),
        (None, "No such file"),
    ],
)
async def test_a_file_that_cannot_be_read_is_an_error_of_its_own(
    pad: Pad, tmp_path: Path, content: str | bytes | None, rule: str
) -> None:
    path = tmp_path / "env"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    result = await pad("doctor", "--env-file", str(path))
    assert result.exit_code == 2
    said = " ".join(result.stderr.replace("│", " ").split())
    assert rule in said
    assert SECRET not in said


def test_the_command_examines_the_services_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "_MODULES", dict.fromkeys(packages._MARKS, ()))
    path = tmp_path / "edge.env"
    path.write_text(f"EDGE_MAX_REQUESTS=0\nEDGE_TLS_CERT_FILE={tmp_path}/none.pem\n")
    result = CliRunner().invoke(app, ["doctor", "--json", "--env-file", str(path)])
    rows = {row["check"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert rows["settings.EDGE_MAX_REQUESTS"]["level"] == "fail"
    assert rows["settings.EDGE_GENERATOR"]["level"] == "warn"
    assert f"`{program()} up` starts" in rows["settings.EDGE_GENERATOR"]["advice"]
    assert "EDGE_TLS_KEY_FILE is not" in rows["keys.EDGE_TLS_CERT_FILE"]["found"]
    assert result.exit_code == 1


def test_where_no_service_is_installed_variables_are_told_to_be_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pad_client.doctor.serves", lambda: False)
    monkeypatch.setattr("pad_client.doctor.packages.serves", lambda: False)
    result = CliRunner().invoke(app, ["doctor", "--json"], env={"EDGE_DRAIN_S": "0"})
    rows = {row["check"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert rows["settings"]["found"] == "1 variable of services, not examined"
