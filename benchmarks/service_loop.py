"""Stacks with a load client each, on one event loop that runs while something is measured."""

import asyncio
import os
import threading
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self, TypeVar

from benchmarks.load import Answer, Ask, LoadClient, Watch
from benchmarks.stacks import StackPlan, cores, running
from pad_client.embedded import EmbeddedStack

T = TypeVar("T")
CLIENT_NICENESS = 10


class ServiceLoop:
    """Use it in a `with` block: it starts the stacks and stops them.

    Args:
        plans: the stacks, by name.
    """

    def __init__(self, plans: Mapping[str, StackPlan]) -> None:
        self._plans = plans
        self._cleanup = ExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._clients: dict[str, LoadClient] = {}
        self.stacks: dict[str, EmbeddedStack] = {}

    def __enter__(self) -> Self:
        self.stacks = self._cleanup.enter_context(running(self._plans))
        self._thread.start()
        self._cleanup.callback(self._close)
        for name, stack in self.stacks.items():
            self.connect(name, [stack.address])
        return self

    def __exit__(self, *error: object) -> None:
        self._cleanup.close()

    def connect(self, name: str, addresses: Sequence[str]) -> None:
        """Keep a load client of these generators under a name."""

        async def make() -> LoadClient:
            return LoadClient(addresses)

        self._clients[name] = self.run(make())

    def steady(self, name: str, asks: Sequence[Ask], num_steps: int) -> Watch:
        """Run answers until all have run together for `num_steps` tokens; see `LoadClient`."""
        return self.run(self._clients[name].steady(asks, num_steps))

    def whole(self, name: str, asks: Sequence[Ask]) -> list[Answer]:
        """Run answers to their end."""
        return self.run(self._clients[name].whole(asks))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run other work on the load client's loop and return what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _work(self) -> None:
        """Run the loop where it disturbs what is measured least: clients are elsewhere in life.

        It stays on the reward service's core and gives way there; threads that it starts do so too.
        """
        _, last = cores()
        os.sched_setaffinity(0, {last})  # of this thread alone, as is the next
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), CLIENT_NICENESS)
        self._loop.run_forever()

    def _close(self) -> None:
        for client in self._clients.values():
            self.run(client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
