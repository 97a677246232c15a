"""The one thread on which a process runs its model."""

import asyncio
import os
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
_Work = Callable[[], None]
SWITCH_INTERVAL_S = 0.0005  # a thread that waits for the interpreter gets it after that
NICENESS = 5  # beyond the other threads'
_MOST_NICE = 19


class ModelThread:
    """Runs functions one after the other on a thread of its own, awaited from the event loop.

    The forward releases the interpreter lock, so the loop goes on answering meanwhile. Results
    come back in one turn of the loop, where an executor's need three. `start` returns once the
    function runs, and the process switches threads often: else a busy loop would let the model
    wait for the interpreter, for milliseconds. On a shared core the thread gives way to the
    process's others. On a GPU it has a stream of its own: two models of one process run side by
    side.

    Args:
        num_torch_threads: CPU threads of a forward.
        device: where the model lies, with its number; it must be loaded before.
    """

    def __init__(self, num_torch_threads: int, device: torch.device | None = None) -> None:
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._is_closed = False
        self._num_unfinished = 0
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._thread = threading.Thread(
            target=self._run_all, args=(num_torch_threads, device), name="model", daemon=True
        )
        self._thread.start()

    def start(
        self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[R]":
        """Run `function` on the model thread; the future gives its result or its error.

        A future that is cancelled does not stop the function: it is always run to its end, so
        that the cache is never left between two states.

        Raises:
            RuntimeError: the thread was closed.
        """
        if self._is_closed:
            raise RuntimeError("model thread: is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        is_running = threading.Lock()
        is_running.acquire()

        def work() -> None:
            is_running.release()
            result, error = None, None
            try:
                result = function(*args, **kwargs)
            except BaseException as raised:  # given to whoever waits
                error = raised
            with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
                loop.call_soon_threadsafe(self._settle, future, result, error)

        is_idle = self._num_unfinished == 0
        self._num_unfinished += 1
        self._work.put(work)
        if is_idle:
            is_running.acquire()
        return future

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `function` on the model thread and return its result."""
        return await self.start(function, *args, **kwargs)

    def close(self) -> None:
        """Wait for the functions that were started, and stop the thread."""
        self._is_closed = True
        self._work.put(None)
        self._thread.join()

    def _settle(
        self, future: "asyncio.Future[Any]", result: Any, error: BaseException | None
    ) -> None:
        self._num_unfinished -= 1
        if future.done():  # whoever waited was cancelled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def _run_all(self, num_torch_threads: int, device: torch.device | None) -> None:
        _give_way()
        torch.set_num_threads(num_torch_threads)
        if device is not None and device.type == "cuda":
            _use_own_stream(device)
        while (work := self._work.get()) is not None:
            work()


def _give_way() -> None:
    """Let the process's other threads go first where they share a core with this one.

    A forward keeps its core busy, and a scheduler lets a thread that wakes wait for milliseconds
    for a busy one of the same rank: so long a message lay that was to leave beside the forward.
    """
    if sys.platform == "linux":  # elsewhere it would be the whole process
        niceness = min(os.getpriority(os.PRIO_PROCESS, 0) + NICENESS, _MOST_NICE)
        with suppress(OSError):  # forbidden here
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


def _use_own_stream(device: torch.device) -> None:
    torch.cuda.set_device(device)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.default_stream(device))  # on which the model was loaded
    torch.cuda.set_stream(stream)  # of this thread alone
