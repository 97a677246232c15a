"""The client's wheel: small, complete, and of use where nothing else of the project is."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from pad_client import GeneratorClient
from pad_client.embedded import EmbeddedStack

ROOT = Path(__file__).resolve().parents[2]
MAX_BYTES = 200_000
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
# What it asks for (and grpcio for it), taken from here: a test should need no network.
NEEDED = ("grpcio", "protobuf", "typing_extensions")
PROGRAM = """
import importlib.util, sys
from pad_client import GeneratorClient

with GeneratorClient(sys.argv[1]) as client:
    with client.generate(prompt="Hello", preferences=["Be brief."], max_tokens=4) as stream:
        print("".join(token.text for token in stream), stream.summary.num_guided_tokens)
for name in ("torch", "transformers", "redis", "numpy", "typer", "svc_common", "generator_svc"):
    assert importlib.util.find_spec(name) is None, name
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: what earlier builds left in the checkout is no part of it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("client", "protos"):
        ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    command = [*PIP, "wheel", *options, "-w", str(source), str(source / "client")]
    subprocess.run(command, check=True)
    (built,) = source.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new virtual environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    interpreter = folder / "bin" / "python"
    install = ["install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    subprocess.run([*PIP, "--python", str(interpreter), *install], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in NEEDED:
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
    return interpreter


def test_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_BYTES


def test_wheel_holds_the_client_and_the_contract_and_nothing_else(wheel: Path) -> None:
    expected = {
        str(path.relative_to(ROOT / parent))
        for parent, package in (("client", "pad_client"), ("protos", "pad"))
        for path in (ROOT / parent / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_program_with_the_wheel_alone_gets_a_guided_answer(
    python: Path, stack: EmbeddedStack, client: GeneratorClient
) -> None:
    command = [str(python), "-c", PROGRAM, stack.address]
    output = subprocess.check_output(command, text=True, cwd=python.parent)
    direct = client.complete(prompt="Hello", preferences=["Be brief."], max_tokens=4)
    assert output == f"{direct.text} {direct.summary.num_guided_tokens}\n"


def test_what_the_wheel_asks_for_is_all_that_it_needs(python: Path) -> None:
    subprocess.run([*PIP, "--python", str(python), "check"], check=True, capture_output=True)


def test_command_of_the_wheel_says_what_is_missing_for_it(python: Path) -> None:
    done = subprocess.run(
        [str(python.parent / "pad"), "info"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "[cli]" in done.stderr
    assert done.stderr.count("\n") == 1


def test_client_and_services_have_one_version() -> None:
    client, services = (
        tomllib.loads((ROOT / path).read_text())["project"]
        for path in ("client/pyproject.toml", "pyproject.toml")
    )
    assert client["version"] == services["version"]
    assert services["dependencies"] == [f"pad-client=={client['version']}"]
