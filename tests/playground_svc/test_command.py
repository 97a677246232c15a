"""`pad playground`: one command, with a server of its own or before one that runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pad_client.cli.app import app
from tests.client.fake_server import FakeServer
from tests.playground_svc.playgrounds import ASK, ROOT, FakeGenerator, ask


@contextmanager
def pad(*arguments: str, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """Run the command as a process that is ended by the test."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from pad_client.cli import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", **variables},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def shown_address(process: "subprocess.Popen[str]") -> str:
    """Return where the page is, once the command says so."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Playground: http://"):
            return line.split("http://")[1].strip().rstrip("/")
    raise AssertionError(process.stderr and process.stderr.read())


def test_it_serves_before_a_running_generator_until_it_is_interrupted() -> None:
    with (
        FakeGenerator(FakeServer()) as fake,
        pad("playground", "--server", fake.address, "--port", "0", PAD_TOKEN="t0ken") as process,
    ):
        address = shown_address(process)
        assert ask(address, "/").status == 200
        assert ask(address, "/api/page").json["server"] == fake.address
        assert ask(address, "/api/generate", ASK).status == 200
        assert fake.server.metadata[-1]["authorization"] == "Bearer t0ken"
        assert fake.server.profiles == {}  # a server of somebody else's is left as it is
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "nothing is left running" in rest


def test_a_generator_that_does_not_answer_yet_is_noted() -> None:
    """It said that the playground was ready, and no more."""
    with pad("playground", "--server", "127.0.0.1:1", "--port", "0") as process:
        shown_address(process)
        assert process.stderr is not None
        notes = iter(process.stderr.readline, "")
        assert "note: no generator answers at 127.0.0.1:1 yet\n" in notes
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert "nothing is left running" in rest


@pytest.mark.parametrize("is_option", [False, True], ids=["variable", "option"])
def test_the_sliders_have_the_levels_that_pad_profile_has(tmp_path: Path, is_option: bool) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[humour]\nabout = "Jokes."\nlevels.dry = "Joke with a straight face."\n')
    option = ["--presets", str(file)] if is_option else []
    # What is said to the command counts before what is said to all.
    variable = {"PAD_PRESETS": "/nowhere" if is_option else str(file)}
    with (
        FakeGenerator(FakeServer()) as fake,
        pad("playground", "--server", fake.address, "--port", "0", *option, **variable) as process,
    ):
        told = ask(shown_address(process), "/api/page").json
    assert [axis["name"] for axis in told["axes"]] == ["humour"]
    assert told["first_wishes"] == ["Joke with a straight face."] * 2


def test_levels_that_cannot_be_used_are_told_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("[Humour]\n")
    settings = {"PLAYGROUND_GENERATOR": "127.0.0.1:1", "PLAYGROUND_PRESETS": str(file)}
    command = [sys.executable, "-m", "playground_svc"]
    ended = subprocess.run(
        command,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ended.returncode == 2
    assert f"PLAYGROUND_PRESETS: presets {file}: Humour: must be 1..32 of" in ended.stderr


def test_presets_that_cannot_be_used_are_told_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("[Humour]\n")
    result = CliRunner().invoke(app, ["playground", "--presets", str(file), "--models", "/nowhere"])
    assert result.exit_code == 1
    assert "Humour: must be 1..32 of" in result.output


def test_options_of_a_server_of_its_own_are_not_dropped_in_silence(tmp_path: Path) -> None:
    for option in (["--models", str(tmp_path)], ["--reward-replicas", "2"]):
        result = CliRunner().invoke(app, ["playground", "--server", "127.0.0.1:1", *option])
        assert result.exit_code == 2
        assert "is not for a --server that runs already" in result.output


def test_a_token_is_not_sent_in_the_clear_to_another_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PAD_TOKEN", "t0ken")
    result = CliRunner().invoke(app, ["playground", "--server", "pad.example:50051"])
    assert result.exit_code == 1
    assert "token: must not be sent in the clear" in result.output


def test_a_port_that_is_taken_is_told_with_its_option(address: str) -> None:
    port = address.partition(":")[2]
    result = CliRunner().invoke(app, ["playground", "--server", "127.0.0.1:1", "--port", port])
    assert result.exit_code == 1
    assert f"port {port} is in use" in result.output
    assert "choose another with --playground-port N" in result.output
