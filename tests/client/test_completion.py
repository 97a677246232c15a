"""Shell completion, by what the shells themselves call: the script they are given, and `pad`."""

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import grpc
import pytest

from pad.v1 import profile_pb2
from tests.client.fake_server import Failure, FakeServer

Run: TypeAlias = Callable[..., Awaitable[str]]
Complete: TypeAlias = Callable[..., Awaitable[list[str]]]
# Typer finds out the shell by its process; for one that is not running it must be told.
NAMED_SHELL = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for PATH with the `pad` command."""
    command = tmp_path / "bin" / "pad"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nfrom pad_client.cli import main\nmain()\n")
    command.chmod(0o755)
    return command.parent


@pytest.fixture
def run(folder: Path, address: str) -> Run:
    """Run a command with `pad` on PATH and the fake server as its server."""

    async def run(*command: str, **variables: str) -> str:
        environment = {
            **os.environ,
            "HOME": str(folder.parent),
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "PAD_SERVER": address,
            **variables,
        }
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        return str(done.stdout)

    return run


@pytest.fixture
def complete(run: Run) -> Complete:
    """Return what fish is offered for a command line."""

    async def complete(line: str, **variables: str) -> list[str]:
        output = await run(
            "pad",
            _PAD_COMPLETE="complete_fish",
            _TYPER_COMPLETE_FISH_ACTION="get-args",
            _TYPER_COMPLETE_ARGS=line,
            **variables,
        )
        return [each.partition("\t")[0] for each in output.splitlines() if each]

    return complete


def store(fake: FakeServer, *user_ids: str) -> None:
    for user_id in user_ids:
        fake.profiles[user_id] = profile_pb2.Profile(user_id=user_id)


@pytest.mark.parametrize(
    "line", ["pad generate --user ", "pad generate Hello -u ", "pad profile get "]
)
async def test_users_with_a_profile_are_offered(
    complete: Complete, fake: FakeServer, line: str
) -> None:
    store(fake, "alan", "alice", "ben")
    assert await complete(line) == ["alan", "alice", "ben"]
    assert await complete(f"{line}al") == ["alan", "alice"]
    assert await complete(f"{line}zoe") == []


async def test_server_and_token_of_the_command_line_are_used(
    complete: Complete, fake: FakeServer, address: str, tmp_path: Path
) -> None:
    store(fake, "alice")
    nowhere = {"PAD_SERVER": "127.0.0.1:1"}
    assert await complete("pad generate --user ", **nowhere) == []
    assert await complete(f"pad generate -s {address} --user ", **nowhere) == ["alice"]
    missing = tmp_path / "token"
    assert await complete(f"pad --token-file {missing} generate --user ") == []


@pytest.mark.parametrize("code", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE])
async def test_a_refusal_offers_nothing_and_says_nothing(
    complete: Complete, fake: FakeServer, code: grpc.StatusCode
) -> None:
    store(fake, "alice")
    fake.failure = Failure(code, "no")
    assert await complete("pad profile delete ") == []


async def test_ids_that_a_shell_would_not_read_as_one_word_are_not_offered(
    complete: Complete, fake: FakeServer
) -> None:
    """Users choose their ids, zsh evaluates what it is offered, and bash expands it."""
    store(fake, "$(touch owned)", "`id`", "a b", "a;b", "a'b", "*", "al@example.com", "a-1_2.x")
    assert await complete("pad generate --user ") == ["a-1_2.x", "al@example.com"]


async def test_ids_that_pad_or_a_shell_would_read_as_something_else_are_not_offered(
    complete: Complete, fake: FakeServer
) -> None:
    store(fake, "-", "--help", "-shost", "%1", "@file", "+x", ",a", "_a", ".a")
    assert await complete("pad profile get ") == [".a", "_a"]
    assert "-shost" not in await complete("pad profile get -")


async def test_values_commands_and_options_are_offered(complete: Complete) -> None:
    assert await complete("pad generate --strategy p") == ["prompt", "pad", "pad-released"]
    assert await complete("pad generate --fallback ") == ["fail", "unguided"]
    assert await complete("pad token new --scope profiles.") == ["profiles.read", "profiles.write"]
    assert await complete("pad ge") == ["generate"]
    assert await complete("pad profile ") == [
        *("put", "get", "list", "delete", "presets", "edit", "history", "undo", "export", "import")
    ]
    assert await complete("pad profile import --on-conflict ") == ["fail", "skip", "replace"]
    assert "--max-tokens" in await complete("pad generate --max")


@pytest.mark.parametrize(
    ("shell", "mark"),
    [
        ("bash", "complete -o default -F _pad_completion pad"),
        ("zsh", "compdef _pad_completion pad"),
        ("fish", "complete --command pad"),
    ],
)
async def test_scripts_are_shown_and_installed(
    run: Run, folder: Path, shell: str, mark: str
) -> None:
    assert mark in await run("pad", "--show-completion", shell, **NAMED_SHELL)
    said = await run("pad", "--install-completion", shell, **NAMED_SHELL)
    assert f"{shell} completion installed in {folder.parent}" in said
    assert mark in await run("cat", said.splitlines()[0].rpartition(" in ")[2])


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
async def test_bash_itself_completes(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    store(fake, "alan", "alice", "$(touch owned)")
    await run("pad", "--install-completion", "bash", **NAMED_SHELL)
    script = (
        f"cd {tmp_path}; source ~/.bashrc; COMP_WORDS=(pad generate --user a); COMP_CWORD=3;"
        " _pad_completion pad; echo ${COMPREPLY[@]}"
    )
    assert await run("bash", "--norc", "-c", script) == "alan alice\n"
    assert not (tmp_path / "owned").exists()


LEVELS = ["length=brief", "length=long"]


async def test_levels_of_the_presets_are_offered(complete: Complete, tmp_path: Path) -> None:
    line = "pad profile put alice --set "
    offered = await complete(line)
    assert [*LEVELS, "tone=formal"] == offered[:3]
    assert await complete(f"{line}len") == LEVELS
    assert await complete(f"{line}length=b") == ["length=brief"]
    assert await complete("pad profile put alice --set=length=b") == ["length=brief"]
    assert await complete(f"{line}nothing") == []
    rest = await complete(f"{line}length=brief:2 --set ")
    assert rest == [each for each in offered if each not in LEVELS]  # a dimension is set once


async def test_levels_of_a_file_of_ones_own_are_offered(complete: Complete, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[humour]\nabout = "Jokes."\nlevels.dry = "Joke with a straight face."\n')
    line = "pad profile put alice --set "
    assert await complete(line, PAD_PRESETS=str(own)) == ["humour=dry"]
    assert await complete(f"pad profile put alice --presets {own} --set h") == ["humour=dry"]
    own.write_text("[Humour]\n")
    assert await complete(line, PAD_PRESETS=str(own)) == []


async def test_earlier_revisions_are_offered(complete: Complete, fake: FakeServer) -> None:
    for revision in (8, 9, 10):
        profile = profile_pb2.Profile(user_id="alice", revision=revision)
        if "alice" in fake.profiles:
            fake.earlier.setdefault("alice", []).insert(0, fake.profiles["alice"])
        fake.profiles["alice"] = profile
    assert await complete("pad profile undo alice --to ") == ["9", "8"]
    assert await complete("pad profile undo alice --to 8") == ["8"]
    assert await complete("pad profile undo zoe --to ") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        # As bash takes a line apart; it replaces the last of the words alone.
        (["profile", "put", "al", "--set", "len"], LEVELS),
        (["profile", "put", "al", "--set", "length", "="], ["brief", "long"]),
        (["profile", "put", "al", "--set", "length", "=", ""], ["brief", "long"]),
        (["profile", "put", "al", "--set", "length", "=", "br"], ["brief"]),
        (["profile", "put", "al", "--set", "=", "length", "=", "br"], ["brief"]),
        (["profile", "put", "al", "--set", "=", "len"], LEVELS),
        (["generate", "--strategy", "=", "pr"], ["prompt"]),
        (["generate", "-s", "{host}", ":", "{port}", "--user", "a"], ["alan", "alice"]),
        (["generate", "--user", "=", "a"], ["alan", "alice"]),
        (["generate", '"two\nlines"', "--user", "a"], ["alan", "alice"]),
        (["generate", "'it\\'", '"say \\"a\n\n\\" "', "--user", "=", "a"], ["alan", "alice"]),
    ],
    ids=" ".join,
)
async def test_bash_takes_words_apart_and_gets_the_part_it_asked_for(
    run: Run, fake: FakeServer, address: str, words: list[str], offered: list[str]
) -> None:
    store(fake, "alan", "alice")
    host, _, port = address.partition(":")
    quoted = [shlex.quote(each.format(host=host, port=port)) for each in words]
    elsewhere = {"PAD_SERVER": "127.0.0.1:1"} if "-s" in words else {}
    script = (
        f'eval "$(pad --show-completion bash)"; COMP_WORDS=(pad {" ".join(quoted)});'
        f" COMP_CWORD={len(words)}; _pad_completion pad; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    said = await run("bash", "--norc", "-c", script, **NAMED_SHELL, **elsewhere)
    assert said.split() == offered
