"""A service ends when it has drained, and with an error when a part of it breaks."""

import asyncio

import pytest

from svc_common.lifetime import until_first


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
