"""A TCP proxy inside the test: what a network does to a connection, on demand."""

import asyncio
import contextlib
import socket
from dataclasses import dataclass, field

CHUNK_BYTES = 1 << 16


@dataclass
class Network:
    """How bytes travel now; as made, nothing is wrong."""

    delay_s: float = 0.0  # each chunk comes so much later
    bytes_per_s: float = 0.0  # 0: as fast as they come
    slice_bytes: int = 0  # chunks are cut into pieces of this size; 0: not at all
    is_silent: bool = False  # connections stay open and carry nothing
    is_refusing: bool = False  # new connections are closed at once


@dataclass
class Proxy:
    """Forwards a port to a target that may change; an async context manager."""

    target_port: int
    port: int = 0
    network: Network = field(default_factory=Network)

    async def __aenter__(self) -> "Proxy":
        self._moved = asyncio.Event()
        self._links: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.cut()

    def set_network(self, network: Network) -> None:
        """Have bytes travel like this from now on."""
        self.network = network
        self._moved.set()
        self._moved = asyncio.Event()

    async def cut(self) -> None:
        """Reset all connections."""
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        try:
            if not self.network.is_refusing:
                with contextlib.suppress(OSError):
                    await self._link(reader, writer)
        except asyncio.CancelledError:
            pass  # cut; the server's own callback would log it
        finally:
            self._links.discard(link)
            _reset(writer)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        its_reader, its_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        pumps = [
            asyncio.ensure_future(self._pump(reader, its_writer)),
            asyncio.ensure_future(self._pump(its_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            _reset(its_writer)  # first: a cut may come while the pumps end
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            size = self.network.slice_bytes or len(data)
            for start in range(0, len(data), size):
                await self._travel(min(size, len(data) - start))
                writer.write(data[start : start + size])
                await writer.drain()

    async def _travel(self, num_bytes: int) -> None:
        """Return when so many bytes have arrived."""
        while self.network.is_silent:
            await self._moved.wait()
        network = self.network
        seconds = network.delay_s
        if network.bytes_per_s:
            seconds += num_bytes / network.bytes_per_s
        if seconds:
            moved = self._moved
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(moved.wait(), seconds)
        elif network.slice_bytes:
            await asyncio.sleep(0)  # pieces are to leave one by one


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection by a reset, with whatever is still on its way lost."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
            )
    writer.transport.abort()
