"""Edge processes of a test's own, and what can be seen of a process from outside."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = "demo-base"
WAIT_S = 30.0
SAY = [{"role": "user", "content": "Can you find me a hotel in Paris?"}]
# An answer that goes on until it is stopped.
ENDLESS = {"pad": {"ignore_end_of_turn": True, "preferences": ["Be brief."]}}


@dataclass
class EdgeProcess:
    """A running `python -m edge_svc`."""

    process: "subprocess.Popen[str]"
    address: str
    metrics_address: str

    @property
    def url(self) -> str:
        return f"http://{self.address}/v1"


@contextmanager
def running_edge(generator: str, **settings: str) -> Iterator[EdgeProcess]:
    """Start an edge in front of a generator; it says itself where it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_svc"],
        env={
            **os.environ,
            "EDGE_GENERATOR": generator,
            "EDGE_LISTEN": "127.0.0.1:0",
            "EDGE_METRICS_PORT": "0",
            **settings,
        },
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            event = json.loads(line)
            assert event["event"] == "serving", line
            yield EdgeProcess(process, event["address"], f"127.0.0.1:{event['metrics_port']}")
        finally:
            process.kill()


def metric(address: str, name: str) -> float:
    """Return the value of a metric, named with its labels as in the text form."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=WAIT_S) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " "))


def until(holds: Callable[[], bool]) -> None:
    """Wait for what another process does without telling."""
    give_up_at = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)  # the state of another process offers no event to wait on
