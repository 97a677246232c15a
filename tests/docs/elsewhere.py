"""Commands of the documentation that cannot run in a test, and how each is checked instead.

`ELSEWHERE` is the whole list: whatever a bash block says beside these runs.
"""

import io
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis
import typer
import yaml
from packaging.requirements import Requirement
from rich.console import Console

from edge_svc.settings import PREFIX as EDGE_PREFIX
from edge_svc.settings import EdgeSettings
from generator_svc.settings import PREFIX as GENERATOR_PREFIX
from generator_svc.settings import GeneratorSettings
from pad_client import GeneratorClient
from pad_client.cli.app import app
from pad_client.cli.demo import show_demo
from pad_client.embedded import EmbeddedStack
from playground_svc.settings import PREFIX as PLAYGROUND_PREFIX
from playground_svc.settings import PlaygroundSettings
from reward_svc.settings import PREFIX as REWARD_PREFIX
from reward_svc.settings import RewardSettings
from svc_common.settings import load_settings
from tests.docs.blocks import ROOT

SETTINGS = {
    "generator_svc": (GeneratorSettings, GENERATOR_PREFIX),
    "reward_svc": (RewardSettings, REWARD_PREFIX),
    "edge_svc": (EdgeSettings, EDGE_PREFIX),
    "playground_svc": (PlaygroundSettings, PLAYGROUND_PREFIX),
}
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")
# What compose takes from the caller's environment stands at the head of docker-compose.yml.
_COMPOSE_FILES = ("docker-compose.yml", "docker-compose.tls.yml")


@dataclass(frozen=True)
class Command:
    """A command line, its variables and its words."""

    environment: dict[str, str]
    words: list[str]


@dataclass(frozen=True)
class Elsewhere:
    """Commands that begin as `pattern` says, why they do not run, and what is checked instead."""

    pattern: str
    why: str
    check: Callable[[Command, EmbeddedStack], None]
    prints: Callable[[Command, EmbeddedStack], str] | None = None  # what it would print, if known


def parse(line: str) -> Command:
    """Return a command line that names no other shell syntax than words and variables."""
    words = shlex.split(line.replace("\\\n", " ").removesuffix("&"), comments=True)
    environment = {}
    while words and _ASSIGNMENT.match(words[0]):
        name, _, text = words.pop(0).partition("=")
        environment[name] = text
    return Command(environment, words)


def make_target(command: Command, stack: EmbeddedStack) -> None:
    """The target exists, with these variables."""
    done = subprocess.run(
        ["make", "--dry-run", *command.words[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def demo_output(command: Command, stack: EmbeddedStack) -> str:
    """Return what `pad demo` prints, by its own function on the running stack."""
    shown = io.StringIO()
    console = Console(file=shown, width=100, highlight=False, markup=False, emoji=False)
    with GeneratorClient(stack.address) as client:
        show_demo(client, console, beta=None, max_tokens=60)
    return shown.getvalue()


def pad_command(command: Command, stack: EmbeddedStack) -> None:
    """The command takes these arguments; files among them exist."""
    group = typer.main.get_command(app)
    _, *arguments = command.words
    with typer.Context(group, info_name="pad") as context:
        name, subcommand, rest = group.resolve_command(context, arguments)  # type: ignore[attr-defined]
        assert subcommand is not None, f"pad has no command {name}"
        subcommand.make_context(name, rest, parent=context).close()


def compose(command: Command, stack: EmbeddedStack) -> None:
    """Files, profiles, services and variables that the line names are there."""
    text = "".join((ROOT / name).read_text() for name in _COMPOSE_FILES)
    for variable in command.environment:
        assert f"${{{variable}" in text, variable
    files, names, profiles, action = [], [], [], []
    words = iter(command.words[2:])
    for word in words:
        if word == "-f":
            files.append(next(words))
        elif word == "--profile":
            profiles.append(next(words))
        elif word == "--scale":
            names.append(next(words).partition("=")[0])
        elif not word.startswith("-"):
            action.append(word)
    loaded = [yaml.safe_load((ROOT / file).read_text()) for file in files or _COMPOSE_FILES[:1]]
    services = {name: entry for each in loaded for name, entry in each["services"].items()}
    offered = {name for entry in services.values() for name in entry.get("profiles", ())}
    assert {*names, *action[1:]} <= set(services), f"{names}: not among {sorted(services)}"
    assert set(profiles) <= offered, f"{profiles}: not among {sorted(offered)}"
    assert action[0] in ("up", "down", "config", "logs", "restart", "ps", "build"), action


def owner(command: Command, stack: EmbeddedStack) -> None:
    """The owner is the user of the images, and compose mounts these folders into them."""
    user, *folders = command.words[3:]
    for folder in folders:
        image = (ROOT / f"deploy/Dockerfile.{Path(folder).name}").read_text()
        assert f"USER {user}\n" in image, folder
    mounted = (ROOT / "docker-compose.tls.yml").read_text()
    assert all(f"/{Path(folder).name}:/run/secrets/pad:ro" in mounted for folder in folders)


def kubectl(command: Command, stack: EmbeddedStack) -> None:
    """A folder that is applied can be built; objects are those of the manifests."""
    words = command.words
    if "-k" in words:
        folder = ROOT / words[words.index("-k") + 1]
        assert (folder / "kustomization.yaml").is_file(), folder
        if shutil.which("kubectl") is not None:
            subprocess.run(["kubectl", "kustomize", folder], capture_output=True, check=True)
        return
    if words[1:3] == ["create", "namespace"]:
        return
    manifests = (ROOT / "deploy/kubernetes/base").glob("*.yaml")
    objects = [each for path in manifests for each in yaml.safe_load_all(path.read_text())]
    known = {
        f"{each['kind'].lower()}/{each['metadata']['name']}"
        for each in objects
        if each and "metadata" in each  # a Kustomization has none
    }
    named = [word for word in words[2:] if "/" in word and not word.startswith("-")]
    assert named, f"names no object: {words}"
    assert set(named) <= known, f"{named}: not among {sorted(known)}"


def extras(command: Command, stack: EmbeddedStack) -> None:
    """The extras of our distributions that the line names exist."""
    for word in command.words[2:]:
        if word.startswith("."):
            folder, bracket, names = word.partition("[")
            project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
            wanted = Requirement(f"{project['name']}{bracket}{names}").extras
            assert wanted <= set(project["optional-dependencies"]), word
        elif not word.startswith("-"):
            assert re.fullmatch(r"[a-z-]+", word), word  # of another project


def settings(command: Command, stack: EmbeddedStack) -> None:
    """The service takes these settings."""
    cls, prefix = SETTINGS[command.words[-1]]
    load_settings(cls, prefix, command.environment)


def redis_command(command: Command, stack: EmbeddedStack) -> None:
    """The stack's Redis takes the command: `redis-cli` need not be installed."""
    url = stack.addresses["redis"]
    with redis.Redis.from_url(url) as client:
        client.execute_command(*command.words[1:])


ELSEWHERE = (
    Elsewhere(
        r"make demo\b",
        "starts a stack of its own; CI runs it after the tests",
        make_target,
        demo_output,
    ),
    Elsewhere(
        r"make [a-z]", "sets up, runs or measures for minutes; CI runs the quick ones", make_target
    ),
    Elsewhere(
        r"(\S*/)?pad (up|playground|demo|train|evaluate)\b(?!.*--help)",
        "runs until Ctrl-C, or trains for hours; the stack of the tests is what `pad up` starts",
        pad_command,
    ),
    Elsewhere(r"(\w+=\S+ )*docker compose ", "needs Docker and builds images", compose),
    Elsewhere(r"sudo chown -R ", "needs root", owner),
    Elsewhere(r"kubectl ", "needs a cluster", kubectl),
    Elsewhere(r"pip install ", "needs a package index", extras),
    Elsewhere(
        r"redis-cli ", "is not installed with the project; redis-py sends the same", redis_command
    ),
    # Services with the bundled models do run, see `page_services`; these name models of others.
    Elsewhere(
        r"(\w+=\S+\s+(\\\n\s*)?)*(\S*/)?python -m (\w+_svc)\b",
        "needs models or servers that are not here",
        settings,
    ),
)


def find(line: str) -> Elsewhere | None:
    """Return the entry for a command line, if it is not to be run."""
    return next((entry for entry in ELSEWHERE if re.match(entry.pattern, line)), None)


def logical_lines(script: str) -> list[str]:
    """Return a script's lines, each with the lines that a backslash joins to it."""
    lines: list[str] = []
    is_open = False
    for line in script.splitlines():
        if is_open:
            lines[-1] += f"\n{line}"
        else:
            lines.append(line)
        is_open = line.endswith("\\")
    return lines


def workspace(folder: Path) -> Path:
    """Make a folder that looks like a checkout, in which commands may write."""
    for entry in ROOT.iterdir():
        if entry.name not in (".git", ".venv", "secrets", "site", "runs"):
            (folder / entry.name).symlink_to(entry)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder
