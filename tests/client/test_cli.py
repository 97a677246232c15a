"""The `pad` command against the fake server and a stack of fakes."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from pad.v1 import common_pb2, generator_pb2
from pad_client import GeneratorClient, Summary, Timings, Token
from pad_client.cli import demo_script
from pad_client.cli.answers import marked_text, summary_line
from pad_client.cli.app import app
from pad_client.cli.attributes import Attributes, count_attributes
from pad_client.cli.console import shown_start
from pad_client.cli.demo import show_demo
from pad_client.embedded import StartProgress, specs
from tests.client.fake_server import BASE_TOKENS, GUIDED_TOKENS, Failure, FakeServer, preference
from tests.client.stack_options import ROOT, SERVICE, fake_options

Pad = Callable[..., Any]


@pytest.fixture
def pad(address: str) -> Pad:
    async def run(*arguments: str, stdin: str | None = None) -> Result:
        environment = {"PAD_SERVER": address, "COLUMNS": "100", "NO_COLOR": "1"}
        return await asyncio.to_thread(
            CliRunner().invoke, app, list(arguments), env=environment, input=stdin
        )

    return run


async def test_generate_streams_the_text_and_notes_what_happened(
    pad: Pad, fake: FakeServer
) -> None:
    result = await pad("generate", "--user", "alice", "Hello")
    assert result.exit_code == 0
    assert result.stdout == "".join(GUIDED_TOKENS) + "\n"
    assert "9 tokens, 9 guided, 4 changed by the preferences, beta 1.5, 20.0 ms" in result.stderr
    assert fake.requests[0].chat.messages[0].content == "Hello"
    assert fake.requests[0].chat.messages[0].role == "user"


async def test_generate_sends_what_the_options_say(pad: Pad, fake: FakeServer) -> None:
    result = await pad(
        "generate", "Hello", "--raw", "-p", "Be brief.", "-p", "2*Be kind.", "--beta", "0.5",
        "--top-k", "5", "--temperature", "0.7", "--top-p", "0.9", "--seed", "3",
        "--max-tokens", "9", "--stop", "x", "--stop", "y", "--strategy", "pad-released",
        "--fallback", "unguided", "--num-samples", "2", "--reference", "base",
    )  # fmt: skip
    assert result.exit_code == 0
    assert fake.requests == [
        generator_pb2.GenerateRequest(
            prompt="Hello",
            preferences=[preference("Be brief."), preference("Be kind.", 2.0)],
            beta=0.5,
            top_k=5,
            temperature=0.7,
            top_p=0.9,
            seed=3,
            max_tokens=9,
            stop=["x", "y"],
            strategy=generator_pb2.STRATEGY_PAD_RELEASED,
            reference=common_pb2.REFERENCE_MODE_BASE,
            fallback=generator_pb2.FALLBACK_POLICY_UNGUIDED,
            num_samples=2,
        )
    ]
    assert fake.requests[0].preferences[0].weight == 1.0


@pytest.mark.parametrize("source", ["file", "stdin"])
async def test_chat_comes_from_a_file_before_the_text(
    pad: Pad, fake: FakeServer, tmp_path: Path, source: str
) -> None:
    turns = json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    (tmp_path / "chat.json").write_text(turns)
    path = str(tmp_path / "chat.json") if source == "file" else "-"
    result = await pad("generate", "--chat", path, "c", stdin=turns)
    assert result.exit_code == 0
    sent = [(each.role, each.content) for each in fake.requests[0].chat.messages]
    assert sent == [("user", "a"), ("assistant", "b"), ("user", "c")]


async def test_json_is_one_object_a_line(pad: Pad) -> None:
    result = await pad("generate", "Hello", "--user", "alice", "--json", "--candidates")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["type"] for line in lines] == ["token"] * len(GUIDED_TOKENS) + ["summary"]
    assert lines[0]["candidates"][0]["text"] == GUIDED_TOKENS[0]
    assert lines[-1]["finish_reason"] == "end-of-turn"
    assert lines[-1]["timings"]["queue_s"] == 0.001


async def test_candidates_are_listed_by_step(pad: Pad) -> None:
    result = await pad("generate", "Hello", "--candidates")
    assert "' kind'" in result.stdout
    assert "chosen" in result.stdout
    assert "+0.250" in result.stdout


async def test_compare_marks_changed_tokens_without_colour(pad: Pad, fake: FakeServer) -> None:
    result = await pad("generate", "Hello", "--user", "alice", "--beta", "2", "--compare")
    assert result.exit_code == 0
    assert "".join(BASE_TOKENS) in result.stdout
    assert "«Sure, what» kind of food «would» you" in result.stdout
    assert "\x1b" not in result.stdout
    base = fake.requests[1]
    assert (base.strategy, base.user_id, base.seed) == (generator_pb2.STRATEGY_BASE, "", 99)
    assert not base.HasField("beta")


async def test_compare_as_json_is_two_lines(pad: Pad) -> None:
    result = await pad("generate", "Hello", "--user", "alice", "--compare", "--json")
    base, guided = (json.loads(line) for line in result.stdout.splitlines())
    assert (base["type"], base["text"]) == ("base", "".join(BASE_TOKENS))
    assert (guided["type"], guided["text"]) == ("guided", "".join(GUIDED_TOKENS))


def test_changed_tokens_are_underlined_on_a_terminal() -> None:
    tokens = [
        Token(index, text, 1, -1.0, 0.0, True, is_changed, 2, "x")
        for index, (text, is_changed) in enumerate(
            [(" Hi", False), (" you", True), (" two", True), ("", True), (" .", False)]
        )
    ]
    plain = Console(force_terminal=False)
    assert marked_text(tokens, plain).plain == "Hi «you two» ."
    colour = Console(force_terminal=True, color_system="truecolor", no_color=False)
    text = marked_text(tokens, colour)
    assert text.plain == "Hi you two ."
    assert [(span.start, span.end) for span in text.spans if span.style] == [(3, 10)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate"],
        ["generate", "--raw", "--chat", "-"],
        ["generate", "a", "--strategy", "best"],
        ["generate", "a", "--compare"],
        ["generate", "a", "--user", "u", "--strategy", "base", "--compare"],
        ["generate", "a", "--top-k", "0"],
        ["generate", "--chat", "/nowhere.json"],
        ["profile", "put", "alice"],
        ["nothing"],
    ],
)
async def test_wrong_usage_ends_with_2(pad: Pad, arguments: list[str]) -> None:
    assert (await pad(*arguments)).exit_code == 2


@pytest.mark.parametrize("content", ["{", "{}", '[{"role": "user"}]', '["a"]'])
async def test_chat_that_is_none_is_wrong_usage(pad: Pad, content: str) -> None:
    result = await pad("generate", "--chat", "-", stdin=content)
    assert result.exit_code == 2
    assert "JSON" in result.stderr


async def test_error_is_one_line_with_a_hint(pad: Pad, fake: FakeServer) -> None:
    fake.failure = Failure(grpc.StatusCode.INVALID_ARGUMENT, "beta: must be 0..10, got 11")
    for arguments in (["generate", "a"], ["info"], ["profile", "get", "alice"]):
        result = await pad(*arguments)
        assert result.exit_code == 1
        first, hint = result.stderr.strip().splitlines()
        assert first == "pad: beta: must be 0..10, got 11 (INVALID_ARGUMENT)"
        assert hint.startswith("hint: ")


async def test_error_in_mid_answer_keeps_the_text_before_it(pad: Pad, fake: FakeServer) -> None:
    fake.failure = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", pushback_ms="500")
    fake.failure_after = 2
    result = await pad("generate", "a")
    assert result.exit_code == 1
    assert result.stdout == "What kind\n"
    assert "try again after 0.5 s" in result.stderr


async def test_profile_commands_put_get_list_and_delete(pad: Pad, fake: FakeServer) -> None:
    assert (await pad("profile", "put", "alice", "-p", "Be brief.", "--beta", "2")).exit_code == 0
    await pad("profile", "put", "ben", "-p", "0.5*Be kind.")
    shown = await pad("profile", "get", "ben")
    assert "0.5*Be kind." in shown.stdout
    listed = await pad("profile", "list", "--json")
    profiles = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [each["user_id"] for each in profiles] == ["alice", "ben"]
    assert profiles[0]["beta"] == 2
    assert profiles[0]["updated_at"] == "2023-11-14T22:13:20+00:00"
    conflict = await pad("profile", "put", "ben", "-p", "x", "--expected-revision", "0")
    assert (conflict.exit_code, "ABORTED" in conflict.stderr) == (1, True)
    assert "erased" in (await pad("profile", "delete", "ben")).stdout
    assert set(fake.profiles) == {"alice"}
    assert (await pad("profile", "delete", "ben")).exit_code == 1


async def test_info_shows_limits_and_replicas(pad: Pad) -> None:
    shown = (await pad("info")).stdout
    assert "demo-base" in shown
    assert "127.0.0.1:50052" in shown
    assert json.loads((await pad("info", "--json")).stdout)["max_top_k"] == 100


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
    row = next(line for line in shown.splitlines() if line.split()[:2] == ["alice", "8.0"])
    means = "alice 8.0 +1.0 1.0 +1.0 0.0 -1.0 1.0 +1.0 1.0 +1.0"
    assert row.split() == [*means.split(), f"{4 * num_prompts}/{9 * num_prompts}", "20.0"]


def test_attributes_are_counted_on_the_text() -> None:
    text = "Hi! I'm sure it\N{RIGHT SINGLE QUOTATION MARK}s Anna's. Would you like tea, please? OK!"
    assert count_attributes(text) == Attributes(
        words=11, exclamations=2, questions=1, formal=2, casual=5
    )


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


def test_answer_without_rewards_says_so() -> None:
    timings = Timings(0, 0, 0, 0, 0, 0, 0.1)
    summary = Summary("r", None, 1, 5, 2, 1, 3, None, 1.0, 0, 0, "", timings)
    assert "3 UNGUIDED: no reward service answered, 20.0 ms per token" in summary_line(summary)


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


async def test_demo_runs_a_whole_stack_and_says_what_it_stopped(fake_services: Path) -> None:
    result = await asyncio.to_thread(
        CliRunner().invoke, app, ["demo", "--models", str(fake_services)]
    )
    assert result.exit_code == 0, result.output
    assert "waiting for" in result.stderr
    assert "Stopped: redis (unix://" in result.stdout
    assert "Nothing is left running." in result.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_serves_until_it_is_interrupted(fake_services: Path, number: int) -> None:
    arguments = ["up", "--models", str(fake_services), "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from pad_client.cli import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    with process:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or "Ctrl-C" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr and process.stderr.read()
        row = next(line for line in lines if "generator" in line)
        with GeneratorClient(row.split("│")[2].strip()) as client:
            assert client.server_info().model_id == "demo-base"
        process.send_signal(number)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "nothing is left running" in rest


def test_up_without_models_says_where_it_looked(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["up", "--models", str(tmp_path)])
    assert result.exit_code == 1
    assert f"no model in {tmp_path / specs.BASE_MODEL}" in result.stderr
    assert "hint: " in result.stderr


def test_missing_typer_is_said_in_one_line(tmp_path: Path) -> None:
    script = "import sys; sys.modules['typer'] = None\nfrom pad_client.cli import main\nmain()"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "pip install 'pad-serving[cli]'" in result.stderr
