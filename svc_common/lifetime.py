"""How long a service lives: until it has drained, or a part it cannot do without is broken."""

import asyncio
import os
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def exits_on_signals() -> Iterator[None]:
    """End the process on SIGTERM and SIGINT, with exit status 0, while the body runs.

    For the time before a server drains on them, in which models are loaded, and after: nothing is
    there that would have to be ended in good order. Python's own way leaves SIGTERM to the kernel,
    which does not deliver it to a container's first process.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, _exit) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


async def until_first(
    service: Coroutine[Any, Any, None], *helpers: Coroutine[Any, Any, None]
) -> None:
    """Run all until `service` ends, or until one of its helpers fails, which ends it.

    Raises:
        Exception: What a helper, or the service itself, failed with.
    """
    main_task = asyncio.create_task(service)
    tasks = [main_task, *map(asyncio.create_task, helpers)]
    try:
        while not main_task.done():
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            tasks = [task for task in tasks if not task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
