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

    The forward releases the interpreter lock, so the loop goes on answering meanwhile. On a GPU the
    thread has a stream of its own: two models of one process run side by side.

    Args:
        num_torch_threads: CPU threads of a forward.
        device: where the model lies, with its number; it must be loaded before the first call.
    """

    def __init__(self, num_torch_threads: int, device: torch.device | None = None) -> None:
        self._pool = ThreadPoolExecutor(1, "model", _start, (num_torch_threads, device))

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


def _start(num_torch_threads: int, device: torch.device | None) -> None:
    torch.set_num_threads(num_torch_threads)
    if device is None or device.type != "cuda":
        return
    torch.cuda.set_device(device)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.default_stream(device))  # on which the model was loaded
    torch.cuda.set_stream(stream)  # of this thread alone
