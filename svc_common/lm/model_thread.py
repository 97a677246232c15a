"""The one thread on which a process runs its model."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class ModelThread:
    """Runs functions one after the other on a thread of its own, awaited from the event loop.

    The forward releases the interpreter lock, so the loop goes on answering meanwhile.
    """

    def __init__(self, num_torch_threads: int) -> None:
        self._pool = ThreadPoolExecutor(1, "model", torch.set_num_threads, (num_torch_threads,))

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `function` on the model thread and return its result.

        A caller that is cancelled does not stop the function: it is always run to its end, so
        that the cache is never left between two states.
        """
        loop = asyncio.get_running_loop()
        return await asyncio.shield(
            loop.run_in_executor(self._pool, lambda: function(*args, **kwargs))
        )

    def close(self) -> None:
        """Wait for the running function and stop the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)
