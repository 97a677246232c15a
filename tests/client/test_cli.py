"""The `pad` command against the fake server."""

import errno
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import grpc
import pytest
import typer

from pad.v1 import common_pb2, generator_pb2
from pad_client.cli.console import program
from tests.client import fake_server
from tests.client.conftest import Pad
from tests.client.fake_server import BASE_TOKENS, GUIDED_TOKENS, Failure, FakeServer, preference


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
    result = await pad("generate", "Hello", "--user", "alice", "--candidates")
    assert "' kind'" in result.stdout
    assert "chosen" in result.stdout
    assert "+0.250" in result.stdout
    assert "-0.250" in result.stdout


async def test_candidates_of_an_unguided_answer_have_no_reward(pad: Pad) -> None:
    """A reward of 0 and a score stood there, as if they had taken part in the choice."""
    result = await pad("generate", "Hello", "--candidates")
    assert "-0.500" in result.stdout
    for word in ("reward", "score", "0.250"):
        assert word not in result.stdout


async def test_summary_of_best_of_n_names_the_best_reward(pad: Pad) -> None:
    result = await pad("generate", "a", "-p", "b", "--strategy", "best-of-n", "--num-samples", "3")
    assert "best of 3 by reward (+1.25)" in result.stderr


async def test_compare_explains_marks_only_where_there_are_some(
    pad: Pad, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("generate", "Hello", "--user", "alice", "--compare")
    assert "«Marked»" in (await pad(*arguments)).stdout
    monkeypatch.setattr(fake_server, "GUIDED_TOKENS", BASE_TOKENS)
    assert "«Marked»" not in (await pad(*arguments)).stdout


async def test_version_is_the_packages(pad: Pad) -> None:
    assert (await pad("--version")).stdout == f"pad {version('pad-client')}\n"


async def test_help_says_that_preferences_replace_the_profile(pad: Pad) -> None:
    def words(text: str) -> str:
        return " ".join(text.replace("│", " ").split())

    assert "used in place of the user's profile" in words((await pad("generate", "-h")).stdout)
    assert "in place of" not in words((await pad("profile", "put", "-h")).stdout)


async def test_hint_names_the_option_of_the_command(pad: Pad, fake: FakeServer) -> None:
    """It named timeout_s, which the command line does not have."""
    fake.hang_after = 0
    result = await pad("generate", "a", "--timeout", "0.2")
    assert "hint: allow more time with --timeout" in result.stderr
    assert "timeout_s" not in result.stderr


async def test_hint_names_the_command_as_it_was_started(
    pad: Pad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pad` alone is not on PATH after `make setup`."""
    script = tmp_path / "venv" / "bin" / "pad"
    script.parent.mkdir(parents=True)
    script.touch()
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.chdir(tmp_path)
    result = await pad("info", "--server", "127.0.0.1:1")
    assert "`venv/bin/pad up` starts a server" in result.stderr
    monkeypatch.chdir(script.parent)
    assert program() == "./pad"
    monkeypatch.chdir("/")
    assert program() == min(str(script), str(script)[1:], key=len)
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert program() == "pad"


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


async def test_a_disk_that_is_full_is_told_in_one_line(
    pad: Pad, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a traceback of forty lines."""

    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(typer, "echo", no_space)
    result = await pad("generate", "Hello")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "pad: No space left on device"
