"""Measures from a process of its own for how long a gRPC server answers nobody.

Run as a module: `python -m tests.fuzz.stall_watch ADDRESS`. It asks for the server's health all the
time; each line on its standard input is answered by the longest wait since the one before.
"""

import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Self

import grpc

PAUSE_S = 0.002
METHOD = "/grpc.health.v1.Health/Check"


class StallWatch:
    """The longest time in which a server answered nobody."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.stall_watch", self._address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.take()  # once it runs
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()  # the end of its input ends it
        assert self._process.returncode == 0

    def take(self) -> float:
        """Return the longest wait in seconds since the last call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def main(address: str) -> None:
    """Ask until the standard input ends."""
    waits = [0.0]
    is_over = threading.Event()
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary(METHOD, bytes, bytes)
        check(b"", timeout=60)

        def ask() -> None:
            while not is_over.is_set():
                started = time.perf_counter()
                check(b"", timeout=120)
                waits.append(time.perf_counter() - started)
                is_over.wait(PAUSE_S)

        asking = threading.Thread(target=ask)
        asking.start()
        for _ in sys.stdin:
            num_seen = len(waits)
            while len(waits) < num_seen + 2:  # the question that is under way, and one more
                is_over.wait(PAUSE_S)
            seen, waits[:] = max(waits), [0.0]
            print(seen, flush=True)  # noqa: T201
        is_over.set()
        asking.join()


if __name__ == "__main__":
    main(sys.argv[1])
