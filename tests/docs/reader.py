"""Somebody who does what a page says, block by block."""

import contextlib
import doctest
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from grpc_tools import protoc

from pad_client.embedded import EmbeddedStack
from tests.deploy.test_prometheus import metric_labels, selectors
from tests.docs import elsewhere
from tests.docs.blocks import ROOT, Block
from tests.docs.page_services import PageServices

COMMAND_S = 60
_BIN = Path(sys.executable).parent
_DRAWING = re.compile("[─│►▼◄┐└]")
_TREE_PATH = re.compile(r"[\w.-]+(/[\w.-]+)*/?")
# Blocks of text that neither show an output nor a drawing nor folders, by how they begin.
TEXTS = {
    "plain step  =  t + h": "a formula of docs/performance.md",
    "The text between [Principles]": "the guidelines that docs/security.md suggests",
}


class Reader:
    """Runs the blocks of one page in order; Python blocks share their names."""

    def __init__(self, stack: EmbeddedStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._names: dict[str, Any] = {"__name__": "__main__"}
        self._shown = ""  # by the block before
        self._prints: Callable[[], str] = str  # what one of its commands would print elsewhere
        self._services = PageServices(folder, stack.addresses["redis"])
        self._handlers: dict[str, Callable[[Block], object]] = {
            "bash": self._bash,
            "python": self._python,
            "output": self._output,
            "json": lambda block: json.loads(block.text),
            "yaml": lambda block: list(yaml.safe_load_all(block.text)),
            "toml": lambda block: tomllib.loads(block.text),
            "proto": self._proto,
            "promql": self._promql,
            "text": self._text,
        }

    def do(self, block: Block) -> None:
        """Do what the block says, or fail."""
        handler = self._handlers.get(block.language)
        if handler is None:
            known = ", ".join(self._handlers)
            pytest.fail(f"{block.place}: language must be one of {known}, got {block.language!r}")
        handler(block)

    def leave(self) -> None:
        self._services.stop()

    def _here(self, text: str) -> str:
        """Return a text with the default addresses replaced by those of the running servers."""
        addresses = {
            "127.0.0.1:50051": self._stack.address,
            "127.0.0.1:8000": self._stack.addresses["edge"],
            "127.0.0.1:9101": self._stack.metrics_addresses["generator"],
            "127.0.0.1:9102": self._stack.metrics_addresses["reward-0"],
            "127.0.0.1:9103": self._stack.metrics_addresses["edge"],
            **self._services.addresses,
        }
        for default, address in addresses.items():
            text = text.replace(default, address)
        return text

    def _bash(self, block: Block) -> None:
        script = []
        self._prints = str
        for line in elsewhere.logical_lines(block.text):
            entry = elsewhere.find(line)
            if entry is None:
                script.append(line)
                continue
            command = elsewhere.parse(line)
            if entry.check is elsewhere.settings and PageServices.can_start(command):
                self._services.start(command)
            else:
                entry.check(command, self._stack)
            if entry.prints is not None:
                self._prints = partial(entry.prints, command, self._stack)
        self._services.wait()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._here("\n".join(script))],
            cwd=self._folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        assert done.returncode == 0, f"{block.place}:\n{done.stdout}{done.stderr}"
        self._shown = done.stdout

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": os.pathsep.join([str(_BIN), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "protos", ROOT / "client"))),
            "PAD_SERVER": self._here("127.0.0.1:50051"),
            "COLUMNS": "100",
            "NO_COLOR": "1",
            "VISUAL": "true",  # an editor that leaves the file as it is
        }

    def _python(self, block: Block) -> None:
        # Blank lines before it, so that a traceback names the line of the page.
        source = "\n" * (block.line - 1) + self._here(block.text)
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            exec(compile(source, block.path, "exec"), self._names)
        self._shown, self._prints = shown.getvalue(), str

    def _output(self, block: Block) -> None:
        checker = doctest.OutputChecker()
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        wanted = f"... {block.text} ..."  # something before it, and behind
        shown = f"begin\n{self._shown}{self._prints()}\nend"
        assert checker.check_output(wanted, shown, flags), f"{block.place}: shown was\n{shown}"

    def _proto(self, block: Block) -> None:
        path = self._folder / "block.proto"
        path.write_text(block.text)
        output = self._folder / "block.bin"
        arguments = ["protoc", f"-I{self._folder}", f"--descriptor_set_out={output}", str(path)]
        assert protoc.main(arguments) == 0, block.place

    def _promql(self, block: Block) -> None:
        known = metric_labels()
        for line in block.text.splitlines():
            found = selectors(line)
            assert found, f"{block.place}: names no metric: {line}"
            for name, matchers in found:
                assert name in known, f"{block.place}: no metric {name}"
                labels = {label for label, _ in matchers} - {"job", "instance"}
                assert labels <= known[name], f"{block.place}: {name} has labels {known[name]}"

    def _text(self, block: Block) -> None:
        lines = block.text.splitlines()
        if _DRAWING.search(block.text) or any(block.text.startswith(each) for each in TEXTS):
            return
        top = ""
        for line in lines:
            if line.startswith("   "):
                continue  # goes on with what the line above says
            path = line.split()[0]
            if not line.startswith(" "):
                top = path
            assert _TREE_PATH.fullmatch(path), f"{block.place}: say what this text is: {line}"
            where = ROOT / path if not line.startswith(" ") else ROOT / top / path
            assert where.exists(), f"{block.place}: {path} is not there"
