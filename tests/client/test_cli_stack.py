"""`pad up` and `pad demo`: the commands that start a server."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pad_client import GeneratorClient
from pad_client.cli import demo_script
from pad_client.cli.app import app
from pad_client.cli.console import shown_start
from pad_client.cli.demo import show_demo
from pad_client.cli.up import print_services
from pad_client.embedded import EmbeddedStack, StartProgress, specs
from tests.client.fake_server import FakeServer
from tests.client.stack_options import ROOT, SERVICE, fake_options


async def test_demo_prints_every_answer_and_the_counts(address: str, fake: FakeServer) -> None:
    console = Console(record=True, width=80, force_terminal=False)
    with GeneratorClient(address) as client:
        await asyncio.to_thread(show_demo, client, console, beta=None, max_tokens=9)
    shown = console.export_text()
    users = [user.user_id for user in demo_script.DEMO_USERS]
    num_prompts = len(demo_script.DEMO_PROMPTS)
    assert len(users) >= 4
    assert num_prompts >= 2
    assert set(fake.profiles) == set(users)
    assert len(fake.requests) == num_prompts * (1 + len(users))
    assert sum(line.split()[:2] == ["base", "What"] for line in shown.splitlines()) == num_prompts
    assert shown.count("4 of 9 changed") == num_prompts * len(users)
    assert "invented" in shown
    lines = [line.rstrip() for line in shown.splitlines()]
    assert "formal: words such as please, kindly, may I; casual: such as hey, okay, don't." in lines
    assert any(
        line.startswith("Mean per answer and diff") and line.endswith("of guided") for line in lines
    )
    row = next(line for line in shown.splitlines() if line.split()[:2] == ["alice", "8.0"])
    means = "alice 8.0 +1.0 1.0 +1.0 0.0 -1.0 1.0 +1.0 1.0 +1.0"
    assert row.split() == [*means.split(), f"{4 * num_prompts}/{9 * num_prompts}", "20.0"]


def test_progress_in_a_pipe_is_a_line_per_change_and_every_two_seconds() -> None:
    console = Console(record=True, width=80, force_terminal=False, file=io.StringIO())
    with shown_start(console) as show:
        for elapsed_s in (0.0, 1.0, 2.0, 3.0):
            show(StartProgress(("redis",), ("generator",), elapsed_s))
        show(StartProgress(("redis", "generator"), (), 3.5))
    assert console.export_text().splitlines() == [
        "Starting: waiting for generator (0 s)",
        "Starting: waiting for generator (2 s)",
        "Ready: redis, generator",
    ]


@pytest.fixture
def fake_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the commands start fakes: a package of each service's name stands on PYTHONPATH."""
    for kind in ("generator", "reward"):
        package = tmp_path / "path" / f"{kind}_svc"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(
            f"import runpy, sys\nsys.argv = ['', {kind!r}]\n"
            f"runpy.run_path({str(SERVICE)!r}, run_name='__main__')\n"
        )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'path'}{os.pathsep}{ROOT}")
    monkeypatch.chdir(tmp_path)
    return fake_options(tmp_path / "models").models_dir


@contextmanager
def stopped_at_the_end(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill the command if the test fails, or its end would be waited for; its guard cleans up."""
    with process:
        try:
            yield
        finally:
            process.kill()


async def test_demo_runs_a_whole_stack_and_says_what_it_stopped(fake_services: Path) -> None:
    result = await asyncio.to_thread(
        CliRunner().invoke, app, ["demo", "--models", str(fake_services)]
    )
    assert result.exit_code == 0, result.output
    assert "waiting for" in result.stderr
    assert "Stopped: redis (unix://" in result.stdout
    assert "Nothing is left running." in result.stdout


@pytest.mark.parametrize(
    ("number", "options"),
    [(signal.SIGINT, []), (signal.SIGTERM, ["--edge", "--edge-port", "0"])],
    ids=["int", "term-edge"],
)
def test_up_serves_until_it_is_interrupted(
    fake_services: Path, number: int, options: list[str]
) -> None:
    arguments = ["up", "--models", str(fake_services), "--port", "0", *options]
    process = subprocess.Popen(
        [sys.executable, "-c", "from pad_client.cli import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    with stopped_at_the_end(process):
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or "Ctrl-C" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr and process.stderr.read()
        assert "profiles live in memory" in lines[-1]
        row = next(line for line in lines if "generator" in line)
        with GeneratorClient(row.split("│")[2].strip()) as client:
            assert client.server_info().model_id == "demo-base"
        edges = [line.split("base_url=")[1].split("/v1")[0] for line in lines if "/v1" in line]
        assert len(edges) == ("--edge" in options)
        for url in edges:
            with urllib.request.urlopen(f"{url}/readyz", timeout=30) as response:
                assert response.status == 200
        process.send_signal(number)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "nothing is left running" in rest


def test_playground_stores_users_to_load_and_serves_the_page(fake_services: Path) -> None:
    arguments = ["playground", "--models", str(fake_services), "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from pad_client.cli import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with stopped_at_the_end(process):
        assert process.stdout is not None
        line = ""
        while not line.startswith("Playground: "):
            line = process.stdout.readline()
            assert line, process.stderr and process.stderr.read()
        with urllib.request.urlopen(f"{line.split()[1]}api/profiles", timeout=30) as response:
            listed = json.load(response)["profiles"]
        assert [each["user_id"] for each in listed] == ["alice", "ben", "carla", "dev", "eve"]
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "nothing is left running" in rest


def test_up_without_models_says_where_it_looked(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["up", "--models", str(tmp_path)])
    assert result.exit_code == 1
    assert f"no model in {tmp_path / specs.BASE_MODEL}" in result.stderr
    assert "hint: " in result.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_missing_typer_or_rich_is_said_in_one_line(missing: str) -> None:
    script = f"import sys; sys.modules['{missing}'] = None\nfrom pad_client.cli import main\nmain()"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "pip install './client[cli]' in a checkout" in result.stderr


def test_up_goes_on_without_one_replica_and_ends_with_the_last(fake_services: Path) -> None:
    """One killed replica of two stopped everything."""
    arguments = ["up", "--models", str(fake_services), "--port", "0", "--reward-replicas", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from pad_client.cli import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    with stopped_at_the_end(process):
        assert process.stdout is not None
        assert process.stderr is not None
        pids: dict[str, int] = {}
        while "Ctrl-C" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
            cells = [cell.strip() for cell in line.split("│")]
            if len(cells) > 1:
                pids[cells[1]] = int(cells[4])
        os.kill(pids["reward-0"], signal.SIGKILL)
        while (line := process.stderr.readline()).startswith(("Starting", "Ready")):
            pass
        assert line == "reward-0 ended with SIGKILL; answers go on at reward-1\n"
        os.kill(pids["reward-1"], signal.SIGKILL)
        _, rest = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "reward-0" not in rest
    assert "pad: reward-1 ended with SIGKILL; the end of its log:" in rest


def test_services_fit_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of the store's socket was cut short, and no metrics port was to be found."""
    monkeypatch.setenv("COLUMNS", "80")
    socket_path = "unix:///a/rather/long/folder/for/temporary/files/pad-abcdefgh/redis.sock"
    stack = SimpleNamespace(
        pids={"redis": 4194303, "generator": 4194304},
        addresses={"redis": socket_path, "generator": "127.0.0.1:50051"},
        metrics_addresses={"generator": "127.0.0.1:50055"},
    )
    print_services(cast(EmbeddedStack, stack))
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if "│" in line
    ]
    assert "".join(row[1] for row in rows[:-1]) == socket_path
    assert rows[-1] == ["generator", "127.0.0.1:50051", "127.0.0.1:50055", "4194304"]


def test_example_names_the_command_as_it_was_started(fake_services: Path, tmp_path: Path) -> None:
    """`pad` alone is not on PATH after `make setup`."""
    script = tmp_path / "pad"
    script.write_text("from pad_client.cli import main\nmain()\n")
    process = subprocess.Popen(
        [sys.executable, str(script), "up", "--models", str(fake_services), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
    )
    with stopped_at_the_end(process):
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or "Ctrl-C" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1]
        process.terminate()
        process.communicate(timeout=30)
    assert any(line.startswith("  ./pad profile put alice") for line in lines)
