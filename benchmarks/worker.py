"""Contenders that run in one process, without services: a child pinned to one core.

The benchmark sends one JSON object a line, `{"call": name, ...}`, and reads one back. A process of
its own, so that one core and one torch thread are all it has, as for the generator service.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import torch

from benchmarks.alternatives import Alternatives
from benchmarks.engine_contender import EngineContender
from benchmarks.library_contenders import LibraryContenders
from benchmarks.rounds import Sample

KINDS: dict[str, type] = {"engine": EngineContender, "alternative": Alternatives}
"""Contenders by the first word of a call's name; all others are the library's."""


class Worker:
    """The child process as the benchmark sees it; use it in a `with` block."""

    def __init__(self, pair: Path, cpu: int, num_slots: int, context_length: int) -> None:
        command = [sys.executable, "-m", "benchmarks.worker", str(pair)]
        command += [str(cpu), str(num_slots), str(context_length)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )

    def call(self, name: str, **arguments: object) -> Sample:
        """Have the child measure something once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"call": name, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"worker: ended with {self._process.wait()} in {name}")
        sample: Sample = json.loads(line)
        return sample

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # the end of its work
        self._process.stdout.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclasses.dataclass(frozen=True)
class _Arguments:
    pair: Path
    cpu: int
    num_slots: int
    context_length: int


def _parse(arguments: list[str]) -> _Arguments:
    parser = argparse.ArgumentParser()
    parser.add_argument("pair", type=Path)
    for name in ("cpu", "num_slots", "context_length"):
        parser.add_argument(name, type=int)
    return _Arguments(**vars(parser.parse_args(arguments)))


def main(words: list[str]) -> None:
    """Answer calls until stdin ends."""
    arguments = _parse(words)
    os.sched_setaffinity(0, {arguments.cpu})
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand among the answers
    contenders: dict[str, Any] = {}
    for line in sys.stdin:
        call = json.loads(line)
        name = call.pop("call")
        kind = KINDS.get(name.partition("_")[0], LibraryContenders)
        if kind.__name__ not in contenders:  # a model is loaded when it is first measured
            contenders[kind.__name__] = kind(
                arguments.pair, arguments.num_slots, arguments.context_length
            )
        sample = getattr(contenders[kind.__name__], name)(**call)
        answers.write(json.dumps(sample) + "\n")
        answers.flush()
    for contender in contenders.values():
        contender.close()


if __name__ == "__main__":
    main(sys.argv[1:])
