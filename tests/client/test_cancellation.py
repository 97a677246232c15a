"""However a caller leaves a stream, its work on the server ends."""

import asyncio
import gc
from typing import Any

import pytest

import pad_client
from pad_client import AsyncGeneratorClient
from tests.client.fake_server import FakeServer


async def test_closing_a_stream_cancels_it_on_the_server(client: Any, fake: FakeServer) -> None:
    fake.hang_after = 2
    stream = client.generate(prompt="Hi")
    await anext(stream)
    await stream.aclose()
    await asyncio.wait_for(fake.cancelled.wait(), 5)
    with pytest.raises(pad_client.RequestCancelledError):
        async for _ in stream:
            pass


async def test_leaving_the_block_cancels_on_the_server(client: Any, fake: FakeServer) -> None:
    fake.hang_after = 2

    async def consume() -> None:
        async with client.generate(prompt="Hi") as stream:
            async for _ in stream:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await consume()
    await asyncio.wait_for(fake.cancelled.wait(), 5)


async def test_breaking_out_of_the_loop_cancels_on_the_server(
    client: Any, fake: FakeServer
) -> None:
    fake.hang_after = 2
    gc.disable()  # the reference alone must do
    try:
        async for _ in client.generate(prompt="Hi"):
            break
        await asyncio.wait_for(fake.cancelled.wait(), 5)
    finally:
        gc.enable()


async def test_consumer_that_raises_cancels_on_the_server(client: Any, fake: FakeServer) -> None:
    fake.hang_after = 2

    async def consume() -> None:
        async for _ in client.generate(prompt="Hi"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await consume()
    await asyncio.wait_for(fake.cancelled.wait(), 5)


async def test_dropping_the_stream_unread_cancels_on_the_server(
    client: Any, fake: FakeServer
) -> None:
    fake.hang_after = 2
    stream = client.generate(prompt="Hi")
    await anext(stream)
    del stream
    await asyncio.wait_for(fake.cancelled.wait(), 5)


async def test_cancelling_the_waiting_task_cancels_on_the_server(
    address: str, fake: FakeServer
) -> None:
    fake.hang_after = 1
    async with AsyncGeneratorClient(address) as client:
        stream = client.generate(prompt="Hi")
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(fake.cancelled.wait(), 5)


@pytest.mark.parametrize("kind", ["stream", "whole"])
async def test_closing_the_client_ends_its_calls_and_cancels_no_task(
    address: str, fake: FakeServer, kind: str
) -> None:
    """Whoever awaited one of them read that its own task was cancelled."""
    fake.hang_after = 1
    client = AsyncGeneratorClient(address)
    if kind == "stream":
        stream = client.generate(prompt="Hi")
        await anext(stream)
        waiting: asyncio.Future[object] = asyncio.ensure_future(anext(stream))
    else:
        waiting = asyncio.ensure_future(client.complete(prompt="Hi"))
        await asyncio.wait_for(fake.called.wait(), 5)
    await asyncio.sleep(0)
    await client.aclose()
    with pytest.raises(pad_client.RequestCancelledError):
        await waiting
