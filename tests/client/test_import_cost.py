"""What a product pays for `import pad_client`, and a user for each `pad --help` and press of tab.

Modules are counted, not seconds: docs/client.md has those.
"""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import pad_client
from pad_client.cli.app import COMMANDS

HEAVY = {
    "torch",
    "transformers",
    "numpy",
    "redis",
    "svc_common",
    "generator_svc",
    "reward_svc",
    "opentelemetry",
}
CLI = {"typer", "rich", "click"}
GRPC = {"grpc", "google", "asyncio", "pad"}
HELP = "import sys; sys.argv = ['pad', '--help']; from pad_client.cli import main; main()"


def _modules_after(statement: str) -> set[str]:
    script = f"""
import sys
try:
    {statement}
except SystemExit:
    pass
print("MODULES", *{{name.split('.')[0] for name in sys.modules}})
"""
    output = subprocess.check_output([sys.executable, "-c", script], text=True)
    return set(output.rpartition("MODULES")[2].split())


def test_importing_the_client_loads_nothing_heavy() -> None:
    assert not _modules_after("import pad_client") & (HEAVY | CLI | GRPC)


def test_a_client_loads_grpc_and_protobuf_alone() -> None:
    loaded = _modules_after("from pad_client import AsyncGeneratorClient, GeneratorClient")
    assert loaded >= {"grpc", "google", "pad"}
    assert not loaded & (HEAVY | CLI)


def test_values_come_without_grpc() -> None:
    assert not _modules_after("from pad_client import Message, Preference, Strategy") & GRPC


def test_importing_the_embedded_stack_loads_nothing_heavy() -> None:
    assert not _modules_after("import pad_client.embedded") & (HEAVY | CLI)


def test_help_loads_no_grpc() -> None:
    loaded = _modules_after(HELP)
    assert loaded >= {"typer", "rich"}
    assert not loaded & (HEAVY | GRPC)


def test_commands_load_no_model_library() -> None:
    targets = [command.target.partition(":")[0] for command in COMMANDS.values()]
    assert not _modules_after(f"import {', '.join(targets)}") & HEAVY


def test_every_public_name_is_there_and_known_to_type_checkers() -> None:
    """The imports that type checkers and editors read are not executed: nothing else keeps them."""
    assert pad_client.__file__ is not None
    tree = ast.parse(Path(pad_client.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    homes = {
        alias.name: node.module
        for node in imports
        for alias in node.names
        if node.module and node.module.startswith("pad_client.")
    }
    assert sorted(homes) == sorted(pad_client.__all__)
    for name, home in homes.items():
        assert getattr(pad_client, name) is vars(importlib.import_module(str(home)))[name]
        assert name in dir(pad_client)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'pad_client' has no attribute 'Generator'"):
        _ = pad_client.Generator


def test_modules_of_the_package_can_be_reached_as_attributes() -> None:
    script = "import pad_client; pad_client.types.Message; pad_client.errors.PadError"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_line_in_the_help_is_the_commands_own(name: str) -> None:
    command = COMMANDS[name].load(name)
    assert command.name == name
    assert command.help.splitlines()[0] == COMMANDS[name].help
