"""Starts the services in the right order, waits for them, and stops them all."""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pad_client.embedded.child import Child, ChildSpec, Guard
from pad_client.embedded.errors import StackError
from pad_client.embedded.redis_server import find_redis_server
from pad_client.embedded.specs import (
    StackOptions,
    check_models,
    check_packages,
    front_specs,
    redis_spec,
    service_specs,
)

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class StartProgress:
    """How far the start is, for a caller that shows it."""

    ready: tuple[str, ...]
    waiting: tuple[str, ...]
    elapsed_s: float


class EmbeddedStack:
    """Both services, and their store, for as long as the `with` block lasts.

    The children stop with the block, with this process, or with its violent death. Their files
    (socket, logs) lie in a private directory that goes with them.
    """

    def __init__(
        self,
        options: StackOptions | None = None,
        on_progress: Callable[[StartProgress], None] | None = None,
    ) -> None:
        self._options = options or StackOptions()
        self._on_progress = on_progress or (lambda progress: None)
        self._children: dict[str, Child] = {}
        self._lost: set[str] = set()  # replicas that are gone and were told of
        self._cleanup = ExitStack()
        self._directory = Path()
        self._guard: Guard | None = None

    @property
    def address(self) -> str:
        """Where the generator listens."""
        return self._options.generator or self.addresses["generator"]

    @property
    def addresses(self) -> dict[str, str]:
        """Where each child listens, by its name."""
        return {name: child.spec.address for name, child in self._children.items()}

    @property
    def metrics_addresses(self) -> dict[str, str]:
        """Where each service's Prometheus endpoint listens, by the child's name."""
        specs = (child.spec for child in self._children.values())
        return {spec.name: spec.metrics_address for spec in specs if spec.metrics_address}

    @property
    def pids(self) -> dict[str, int]:
        """The process number of each child, by its name."""
        return {name: child.pid for name, child in self._children.items()}

    @property
    def directory(self) -> Path:
        """Where the children's socket and logs lie."""
        return self._directory

    def start(self) -> None:
        """Start all children and wait until they are ready.

        Raises:
            StackError: a model or server is missing, a child died, or one is not ready in time.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all children, the generator first, and remove the directory; may be repeated."""
        self._cleanup.close()
        self._children.clear()
        self._lost.clear()

    def check(self) -> list[str]:
        """Return a sentence for each reward replica that is gone since the last check.

        Raises:
            StackError: a child is gone without which no guided answer can be written: the store,
                the generator, or the last reward replica.
        """
        replicas = [name for name, child in self._children.items() if child.spec.is_replica]
        living = [name for name in replicas if self._children[name].is_running]
        losses = []
        for name, child in self._children.items():
            if child.is_running or name in self._lost:
                continue
            if name not in replicas or not living:
                child.check()
            child.kill()  # the process is gone: this takes its number off the guard's list
            self._lost.add(name)
            losses.append(f"{child.ending}; answers go on at {', '.join(living)}")
        return losses

    def kill(self, name: str) -> None:
        """Kill one child, as a fault would, and leave it dead."""
        self._children[name].kill()

    def terminate(self, name: str) -> None:
        """Ask one child to stop, and do not wait for it."""
        self._children[name].terminate()

    def restart(self, name: str) -> None:
        """Start a child again at its old address, and wait until it is ready."""
        child = self._children[name]
        child.kill()
        self._lost.discard(name)
        self._launch_one(child.spec)
        self._wait([child.spec])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _start(self) -> None:
        options, services = self._options, list[ChildSpec]()
        if not options.generator:
            check_packages(options)
            check_models(options)
            redis_binary = find_redis_server()
        self._directory = Path(tempfile.mkdtemp(prefix="pad-"))  # mode 0700
        self._cleanup.callback(shutil.rmtree, self._directory, ignore_errors=True)
        self._guard = Guard(self._directory, options.stop_grace_s)
        self._cleanup.callback(self._guard.close)

        # All specs before the first start: a port that is taken is told at once.
        if not options.generator:
            redis = redis_spec(options, redis_binary, self._directory)
            generator, rewards = service_specs(options, redis.address)
            services = [redis, *rewards, generator]
        fronts = front_specs(options, options.generator or generator.address)
        # Stopped the other way round: first what has answers to finish.
        if services:
            self._launch([redis])
            self._wait([redis])
            self._launch(rewards)
            self._launch([generator])
            self._wait(services)
        for front in fronts:
            self._launch([front])
            self._wait([front])

    def _launch(self, specs: Sequence[ChildSpec]) -> None:
        self._cleanup.callback(self._stop_children, specs)
        for spec in specs:
            self._launch_one(spec)

    def _launch_one(self, spec: ChildSpec) -> None:
        assert self._guard is not None  # `_start` makes it before any child
        self._children[spec.name] = Child(spec, self._directory, self._guard)

    def _wait(self, specs: Sequence[ChildSpec]) -> None:
        start = time.monotonic()
        waiting = list(specs)
        while True:
            for spec in specs:
                self._children[spec.name].check()
            waiting = [spec for spec in waiting if not spec.is_ready()]
            elapsed_s = time.monotonic() - start
            names = tuple(spec.name for spec in waiting)
            ready = tuple(spec.name for spec in specs if spec not in waiting)
            self._on_progress(StartProgress(ready, names, elapsed_s))
            if not waiting:
                return
            if elapsed_s > self._options.start_timeout_s:
                logs = "\n".join(
                    f"{name}, the end of its log:\n{self._children[name].log_tail()}"
                    for name in names
                )
                raise StackError(
                    f"not ready after {self._options.start_timeout_s:.0f} s: "
                    f"{', '.join(names)}\n{logs}",
                    hint="allow more time, or look for the cause in the log",
                )
            time.sleep(_POLL_S)

    def _stop_children(self, specs: Sequence[ChildSpec]) -> None:
        children = [self._children[spec.name] for spec in specs if spec.name in self._children]
        for child in children:
            child.terminate()
        for child in children:
            child.wait(self._options.stop_grace_s)
