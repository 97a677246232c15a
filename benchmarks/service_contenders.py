"""Contenders that are real services, asked over gRPC."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Self

from benchmarks.load import Ask, LoadClient, Watch
from benchmarks.prompts import make_prompts
from benchmarks.rounds import Cell, Sample
from benchmarks.stacks import StackPlan, running
from svc_common.lm.tokenizer import Tokenizer

PLAIN = "plain, over gRPC"
MAX_TOKENS = 1024


class ServiceContenders:
    """Stacks by name (kind of theta, or `sequential`) and what each is asked to do.

    The stack named `sequential` is measured with `pad-released` alone. Use it in a `with` block.
    """

    def __init__(self, plans: Mapping[str, StackPlan], tokenizer: Tokenizer) -> None:
        self._plans = plans
        self._tokenizer = tokenizer
        self._cleanup = ExitStack()
        self._loop = asyncio.new_event_loop()
        self._clients: dict[str, LoadClient] = {}

    def __enter__(self) -> Self:
        stacks = self._cleanup.enter_context(running(self._plans))
        self._cleanup.callback(self._close)
        self._clients = {
            name: self._loop.run_until_complete(self._connect(stack.address))
            for name, stack in stacks.items()
        }
        return self

    def __exit__(self, *error: object) -> None:
        self._cleanup.close()

    def contenders(self, cell: Cell, num_steps: int) -> dict[str, Callable[[], Sample]]:
        """Return everything to be measured in a cell, by name."""
        found: dict[str, Callable[[], Sample]] = {}
        prompts = make_prompts(self._tokenizer, [cell.prompt] * cell.batch)
        for kind in self._clients:
            if kind == "sequential":
                name = "pad-released, sequential"
                found[name] = self._steady(kind, prompts, "pad-released", num_steps)
                continue
            if not found:
                found[PLAIN] = self._steady(kind, prompts, "base", num_steps)
            for strategy in ("pad-released", "pad"):
                name = f"{strategy}, {kind}"
                found[name] = self._steady(kind, prompts, strategy, num_steps)
        return found

    def _steady(
        self, kind: str, prompts: list[str], strategy: str, num_steps: int
    ) -> Callable[[], Sample]:
        asks = [Ask(prompt, MAX_TOKENS, strategy) for prompt in prompts]

        def measure() -> Sample:
            watch: Watch = self._loop.run_until_complete(
                self._clients[kind].steady(asks, num_steps)
            )
            return watch.sample()

        return measure

    async def _connect(self, address: str) -> LoadClient:
        return LoadClient([address])

    def _close(self) -> None:
        for client in self._clients.values():
            self._loop.run_until_complete(client.close())
        self._loop.close()
