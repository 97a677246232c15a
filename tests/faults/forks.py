"""Reward services as processes of their own that start fast: forked where all is imported."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

from pad_client.embedded.child import Guard, read_log_tail
from reward_svc.__main__ import main

_CONTEXT = multiprocessing.get_context("forkserver")


class ForkedService:
    """A running `python -m reward_svc`, less the seconds that its imports take."""

    def __init__(
        self, name: str, environment: Mapping[str, str], directory: Path, guard: Guard
    ) -> None:
        _CONTEXT.set_forkserver_preload(["reward_svc.__main__"])
        self.name = name
        self._log_path = directory / f"{name}.log"
        self._guard = guard
        arguments = (dict(environment), str(self._log_path))
        self._process: BaseProcess = _CONTEXT.Process(target=_serve, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        os.write(guard.fd, f"+{self.pid}\n".encode())

    @property
    def is_running(self) -> bool:
        return self._process.is_alive()

    def check(self) -> None:
        """Fail with the end of the log if the process is gone."""
        if not self.is_running:
            tail = read_log_tail(self._log_path) if self._log_path.exists() else "  (no log)"
            raise AssertionError(f"{self.name} ended with {self._process.exitcode}:\n{tail}")

    def signal(self, number: signal.Signals) -> None:
        if self.is_running:
            os.kill(self.pid, number)

    def wait(self, seconds: float) -> None:
        """Wait for its end, and kill it after some seconds."""
        self._process.join(seconds)
        self.kill()

    def kill(self) -> None:
        """End it at once, stopped or not."""
        self._process.kill()
        self._process.join()
        self._guard.forget(self.pid)


def _serve(environment: dict[str, str], log_path: str) -> None:
    os.setsid()  # the guard ends process groups
    log = os.open(log_path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(main())
