"""A service ends when it has drained, and with an error when a part of it breaks."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from svc_common.lifetime import exits_on_signals, until_first


async def test_helpers_are_cancelled_when_the_service_ends() -> None:
    cancelled = asyncio.Event()

    async def helper() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    await until_first(asyncio.sleep(0), helper())
    assert cancelled.is_set()


async def test_a_helper_that_ends_well_changes_nothing() -> None:
    done = asyncio.Event()

    async def service() -> None:
        await done.wait()

    async def helper() -> None:
        done.set()

    async with asyncio.timeout(5):
        await until_first(service(), helper())


async def test_a_broken_helper_ends_the_service_with_its_error() -> None:
    ended = asyncio.Event()

    async def service() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def broken() -> None:
        raise RuntimeError("engine broke")

    with pytest.raises(RuntimeError, match="engine broke"):
        await until_first(service(), broken())
    assert ended.is_set()


# Short sleeps: Python runs a handler between instructions, so a signal that falls between the last
# look and the system call waits for the sleep's end.
LOADING = """
import time
from svc_common.lifetime import exits_on_signals
with exits_on_signals():
    print("loading", flush=True)
    while True:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_model_is_loaded_ends_the_process_well(number: signal.Signals) -> None:
    command = [sys.executable, "-c", LOADING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"loading\n"
        process.send_signal(number)
        assert process.wait(20) == 0


def test_the_handlers_of_before_are_put_back() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    with exits_on_signals():
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before


SIGTERM_MASK = 1 << (signal.SIGTERM - 1)


def catches_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) & SIGTERM_MASK)


@pytest.mark.parametrize("service", ["generator_svc", "reward_svc", "colocated_svc", "edge_svc"])
def test_a_signal_ends_a_service_that_is_still_importing(service: str) -> None:
    """The kernel ended it, with status -15, and not at all where it was a container's first."""
    with subprocess.Popen([sys.executable, "-m", service], stderr=subprocess.DEVNULL) as it:
        while not catches_sigterm(it.pid):  # another process's state offers no event to wait on
            assert it.poll() is None
        maps = Path(f"/proc/{it.pid}/maps").read_text(encoding="utf-8")
        it.send_signal(signal.SIGTERM)
        assert it.wait(20) == 0
    assert "libtorch" not in maps
