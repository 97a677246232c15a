"""Stacks with a load client each, on one event loop that runs while something is measured."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self, TypeVar

from benchmarks.load import Answer, Ask, LoadClient, Watch
from benchmarks.stacks import StackPlan, running
from pad_client.embedded import EmbeddedStack

T = TypeVar("T")


class ServiceLoop:
    """Use it in a `with` block: it starts the stacks and stops them.

    Args:
        plans: the stacks, by name.
    """

    def __init__(self, plans: Mapping[str, StackPlan]) -> None:
        self._plans = plans
        self._cleanup = ExitStack()
        self._loop = asyncio.new_event_loop()
        self._clients: dict[str, LoadClient] = {}
        self.stacks: dict[str, EmbeddedStack] = {}

    def __enter__(self) -> Self:
        self.stacks = self._cleanup.enter_context(running(self._plans))
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

        self._clients[name] = self._run(make())

    def steady(self, name: str, asks: Sequence[Ask], num_steps: int) -> Watch:
        """Run answers until all have run together for `num_steps` tokens; see `LoadClient`."""
        return self._run(self._clients[name].steady(asks, num_steps))

    def whole(self, name: str, asks: Sequence[Ask]) -> list[Answer]:
        """Run answers to their end."""
        return self._run(self._clients[name].whole(asks))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def _close(self) -> None:
        for client in self._clients.values():
            self._run(client.close())
        self._loop.close()
