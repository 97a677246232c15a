"""How long a service lives: until it has drained, or a part it cannot do without is broken."""

import asyncio
import os
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


def exit_on_signals() -> None:
    """End the process on SIGTERM and SIGINT from now on, with exit status 0.

    Python's own way leaves SIGTERM to the kernel, which does not deliver it to a container's first
    process: told to end while it imports, that would start, and serve until it is killed.
    """
    for number in _NUMBERS:
        signal.signal(number, _exit)


@contextmanager
def exits_on_signals() -> Iterator[None]:
    """Do what `exit_on_signals` does while the body runs.

    For the time before a server drains on them, in which models are loaded, and after: nothing is
    there that would have to be ended in good order.
    """
    before = {number: signal.signal(number, _exit) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


@dataclass(frozen=True)
class Signals:
    """Set by the first and by the second signal to stop."""

    first: asyncio.Event
    second: asyncio.Event


@contextmanager
def stop_signals() -> Iterator[Signals]:
    """Turn the first and the second SIGTERM or SIGINT into events."""
    signals = Signals(asyncio.Event(), asyncio.Event())

    def on_signal() -> None:
        (signals.second if signals.first.is_set() else signals.first).set()

    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        loop.add_signal_handler(number, on_signal)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


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
