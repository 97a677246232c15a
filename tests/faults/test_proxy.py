"""The proxy does to a connection what it is told to, and nothing else."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.proxy import Network, Proxy

LINE = b"x" * 99 + b"\n"


@asynccontextmanager
async def echoing() -> AsyncIterator[Proxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, asyncio.timeout(20), Proxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


@asynccontextmanager
async def connected(
    proxy: Proxy,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    ("network", "least_s"),
    [
        (Network(), 0.0),
        (Network(delay_s=0.1), 0.2),
        (Network(bytes_per_s=1000), 0.2),
        (Network(slice_bytes=3), 0.0),
    ],
)
async def test_bytes_arrive_whole_and_as_late_as_they_should(
    network: Network, least_s: float
) -> None:
    async with echoing() as proxy, connected(proxy) as (reader, writer):
        proxy.set_network(network)
        started = time.monotonic()
        writer.write(LINE)
        assert await reader.readline() == LINE
        assert time.monotonic() - started >= least_s


async def test_silence_holds_bytes_back_until_it_ends() -> None:
    async with echoing() as proxy, connected(proxy) as (reader, writer):
        proxy.set_network(Network(is_silent=True))
        writer.write(LINE)
        reading = asyncio.ensure_future(reader.readline())
        await asyncio.wait((reading,), timeout=0.1)
        assert not reading.done()
        proxy.set_network(Network())
        assert await reading == LINE


async def test_a_cut_resets_connections_and_refusal_lets_none_in() -> None:
    async with echoing() as proxy:
        async with connected(proxy) as (reader, writer):
            writer.write(LINE)
            assert await reader.readline() == LINE
            proxy.set_network(Network(is_refusing=True))
            await proxy.cut()
            with pytest.raises(ConnectionError):
                await reader.readexactly(1)
        async with connected(proxy) as (reader, writer):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        proxy.set_network(Network())
        async with connected(proxy) as (reader, writer):
            writer.write(LINE)
            assert await reader.readline() == LINE


@pytest.mark.parametrize("num_turns", range(8))
async def test_a_cut_while_a_target_goes_leaves_no_connection_open(num_turns: int) -> None:
    went = asyncio.Event()

    async def go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.transport.abort()
        went.set()

    server = await asyncio.start_server(go, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, asyncio.timeout(20), Proxy(port) as proxy, connected(proxy) as (_, writer):
        writer.write(LINE)
        await went.wait()
        for _ in range(num_turns):
            await asyncio.sleep(0)
        await proxy.cut()
        gc.collect()  # an open connection that nothing holds warns here, and fails the test
