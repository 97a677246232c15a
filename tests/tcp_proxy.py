"""A TCP proxy that delays, swallows or cuts what passes through, and whose target may move."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TcpProxy:
    """Forwards to 127.0.0.1; change its attributes while it runs."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port  # of new connections
        self.delay_s = 0.0  # of each answer
        self.swallows = False  # nothing comes back, and nobody is told
        self.port = 0
        self._links: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """Break all connections."""
        for link in self._links:
            link.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        try:
            there = await asyncio.open_connection("127.0.0.1", self.target_port)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pump(reader, there[1], self, is_answer=False))
                    group.create_task(_pump(there[0], writer, self, is_answer=True))
            finally:
                there[1].close()
        except* (OSError, asyncio.IncompleteReadError, EOFError):
            pass
        except* asyncio.CancelledError:  # by `cut`: the server must not see it
            pass
        finally:
            writer.close()
            self._links.discard(link)


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, proxy: TcpProxy, *, is_answer: bool
) -> None:
    while data := await source.read(65536):
        if is_answer and proxy.delay_s:
            await asyncio.sleep(proxy.delay_s)
        if is_answer and proxy.swallows:
            continue
        sink.write(data)
        await sink.drain()
    raise EOFError


@asynccontextmanager
async def tcp_proxy(target_port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[TcpProxy]:
    """Run a proxy, with TLS on its own side where `tls` is given."""
    proxy = TcpProxy(target_port)
    server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0, ssl=tls)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        links = list(proxy._links)
        proxy.cut()
        if links:
            await asyncio.wait(links)
        await server.wait_closed()
