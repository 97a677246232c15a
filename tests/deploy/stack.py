"""Reads the files that deploy the system as the tools they are written for do."""

import json
import re
from pathlib import Path

import yaml

from edge_svc.settings import EdgeSettings
from generator_svc.settings import GeneratorSettings
from reward_svc.settings import RewardSettings

ROOT = Path(__file__).parents[2]
MAIN, GPU = "docker-compose.yml", "deploy/compose.gpu.yml"
SECRETS = "deploy/compose.secrets.yml"
SETTINGS = {
    "generator": ("GENERATOR_", GeneratorSettings),
    "reward": ("REWARD_", RewardSettings),
}
# With those of the edge, which speaks HTTP and has no model.
ALL_SETTINGS = {**SETTINGS, "edge": ("EDGE_", EdgeSettings)}
FRONTS = ("edge", "playground")  # clients of the generator, each an image of its own
_COMMANDS = ("command", "entrypoint", "test")  # lists that replace those of the file below
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?P<default>:?-[^}]*)?\}")


def variables(name):
    """Return the variables that a compose file takes from the operator's environment."""
    text = (ROOT / name).read_text()
    found = [match["name"] for match in _VARIABLE.finditer(text)]
    assert len(found) == text.count("$"), f"{name}: a form of variable these tests cannot read"
    return set(found)


def load_compose(*names):
    """Return compose files laid over each other, as read with an empty environment."""
    merged = {}
    for name in names:
        variables(name)
        text = _VARIABLE.sub(_default, (ROOT / name).read_text())
        merged = _merge(merged, yaml.safe_load(text))
    return merged


def _default(match):
    assert match["default"] is not None, f"{match['name']}: has no default"
    return match["default"].removeprefix(":").removeprefix("-")


def _merge(under, over):
    if isinstance(under, dict) and isinstance(over, dict):
        return under | {
            key: value if key in _COMMANDS else _merge(under.get(key), value)
            for key, value in over.items()
        }
    if isinstance(under, list) and isinstance(over, list):
        return under + over
    return over


def default_port(service):
    _, cls = ALL_SETTINGS[service]
    return int(cls.listen.rpartition(":")[2])


def default_metrics_port(service):
    return ALL_SETTINGS[service][1].metrics_port


def seconds(duration):
    """Return a compose duration such as 1m30s in seconds."""
    assert re.fullmatch(r"(\d+m)?(\d+s)?", duration), duration
    parts = re.findall(r"(\d+)([ms])", duration)
    return sum(int(number) * {"m": 60, "s": 1}[unit] for number, unit in parts)


def mounts(service):
    """Return source and target of each volume in the short form."""
    return [tuple(volume.split(":")[:2]) for volume in service.get("volumes", [])]


def instructions(dockerfile):
    """Return a Dockerfile's instructions as (name, arguments), comments and line breaks removed."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]


def stages(dockerfile):
    """Return the instructions of each stage; the first stage begins at the first FROM."""
    found = []
    for name, arguments in instructions(dockerfile):
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, arguments))
    return found


def exec_form(arguments):
    """Return the words of an exec-form instruction."""
    words = json.loads(arguments)
    assert all(isinstance(word, str) for word in words)
    return words
