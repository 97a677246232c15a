"""One child process: started under the guard, logging to a file, stopped with a grace period."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pad_client.embedded.errors import StackError

_LAUNCH = Path(__file__).with_name("launch.py")
_GUARD = Path(__file__).with_name("guard.py")
# Runs a module. Without -P those of the folder where somebody happens to stand would come first.
OWN_PYTHON = (sys.executable, "-P", "-m")
# Without site packages and user settings both scripts start in about 15 ms.
_BARE_PYTHON = (sys.executable, "-I", "-S")
_TAIL_BYTES = 64 * 1024
_TAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run and how to see that it is ready."""

    name: str
    command: Sequence[str]
    address: str
    is_ready: Callable[[], bool]
    environment: Mapping[str, str]
    cpus: Sequence[int] = ()
    metrics_address: str = ""  # empty: it has none
    is_replica: bool = False  # whether another child can do its work


class Guard:
    """The process that stops the children if this one dies without doing so."""

    def __init__(self, directory: Path, grace_s: float) -> None:
        read_fd, self.fd = os.pipe()
        with open(read_fd, "rb") as pipe:
            self._process = subprocess.Popen(
                [*_BARE_PYTHON, str(_GUARD), str(directory), str(grace_s)],
                stdin=pipe,
                stdout=subprocess.DEVNULL,  # or readers of our own output would wait for it
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def forget(self, pid: int) -> None:
        """Say that a child is gone, so that its number is never signalled again."""
        if self._process.poll() is None:
            os.write(self.fd, f"-{pid}\n".encode())

    def close(self) -> None:
        """Let the guard do the rest of its work and end."""
        os.close(self.fd)
        self._process.wait()


class Child:
    """A started process."""

    def __init__(self, spec: ChildSpec, directory: Path, guard: Guard) -> None:
        self.spec = spec
        self._guard = guard
        self._log_path = directory / f"{spec.name}.log"
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *_BARE_PYTHON,
                    str(_LAUNCH),
                    str(guard.fd),
                    ",".join(map(str, spec.cpus)),
                    *spec.command,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(spec.environment),
                pass_fds=[guard.fd],
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    def check(self) -> None:
        """Raise `StackError` with the end of the log if the process is gone."""
        if not self.is_running:
            raise StackError(f"{self.ending}; the end of its log:\n{self.log_tail()}")

    @property
    def ending(self) -> str:
        """How the process, which is gone, ended."""
        code = self._process.returncode
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return f"{self.spec.name} ended with {how}"

    def log_tail(self) -> str:
        """Return the last lines the process wrote that may tell why it ended."""
        return read_log_tail(self._log_path)

    def terminate(self) -> None:
        """Ask the process to stop."""
        if self.is_running:
            self._process.terminate()

    def kill(self) -> None:
        """End the process and all it started, at once."""
        if self.is_running:
            os.killpg(self.pid, signal.SIGKILL)
        self._reap(None)

    def wait(self, grace_s: float) -> None:
        """Wait for the process to end, and kill it once the grace period is over."""
        try:
            self._reap(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def _reap(self, timeout_s: float | None) -> None:
        self._process.wait(timeout_s)
        self._guard.forget(self.pid)


def read_log_tail(path: Path) -> str:
    """Return the last lines of a log, indented, without those that all is well."""
    with path.open("rb") as log:
        start = path.stat().st_size - _TAIL_BYTES
        if start > 0:
            log.seek(start - 1)
            log.readline()  # the end of a line that began before
        lines = log.read().decode(errors="replace").splitlines()
    lines = [line for line in lines if not _is_routine(line)] or lines
    return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:]) or "  (empty)"


def _is_routine(line: str) -> bool:
    """Return whether a line of a log is an event that nobody looks for after a death."""
    try:
        event = json.loads(line)
    except ValueError:
        return False
    return isinstance(event, dict) and event.get("level") in ("debug", "info")
