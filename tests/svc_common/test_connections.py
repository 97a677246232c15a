"""Strangers who connect to a gRPC port and do nothing else, on real sockets."""

import asyncio
import resource
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import grpc

from svc_common.open_files import SPARE_FILES
from tests.svc_common.small_service import NAME, OPTIONS, running

# What every HTTP/2 client begins with: its preface, and an empty SETTINGS frame.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
PING, ACK = 0x06, 0x01
FRAME_HEADER_BYTES = 9
APART = [("grpc.use_local_subchannel_pool", 1)]


async def echo(request, context):
    return request


class Stranger:
    """Speaks HTTP/2 and calls nothing; answers pings, as a client that lives does."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer

    @classmethod
    async def connected(cls, address):
        host, port = address.split(":")
        stranger = cls(*await asyncio.open_connection(host, int(port)))
        stranger._writer.write(HELLO)
        return stranger

    async def heard(self):
        """Return whether the server says anything before it closes the connection."""
        try:
            return bool(await self._reader.read(1))
        except ConnectionError:
            return False

    async def until_closed(self):
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await self._reader.readexactly(FRAME_HEADER_BYTES)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == PING and not head[4] & ACK:
                    self._writer.write(head[:4] + bytes([ACK]) + head[5:] + payload)

    async def close(self):
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


async def test_one_connection_too_many_is_closed_and_the_others_go_on():
    """Their number had no limit but that of the process's open files."""
    async with running(replace(OPTIONS, max_connections=2), unary=echo) as service:
        assert await service.call("unary")(b"1") == b"1"
        second = await Stranger.connected(service.address)
        assert await second.heard()
        third = await Stranger.connected(service.address)
        assert not await third.heard()
        assert await service.call("unary")(b"2") == b"2"
        await second.close()
        await third.close()
        async with grpc.aio.insecure_channel(service.address, options=APART) as other:
            call = other.unary_unary(f"/{NAME}/unary")
            assert await call(b"3", wait_for_ready=True, timeout=20) == b"3"


async def test_a_connection_without_a_call_is_told_to_go_and_a_silent_call_is_not():
    go_on = asyncio.Event()

    async def stream(request, context):
        yield b"begins"
        await go_on.wait()
        yield b"ends"

    options = replace(OPTIONS, max_connection_idle_s=0.2)
    async with running(options, server_stream=stream) as service:
        call = service.call("server_stream")(b"")
        assert await call.read() == b"begins"
        stranger = await Stranger.connected(service.address)
        async with asyncio.timeout(20):
            await stranger.until_closed()
        await stranger.close()
        go_on.set()
        assert await call.read() == b"ends"


async def test_a_client_that_was_idle_notices_nothing():
    peers = []

    async def unary(request, context):
        peers.append(context.peer())
        return request

    async with running(replace(OPTIONS, max_connection_idle_s=0.1), unary=unary) as service:
        async with asyncio.timeout(20):
            while len(set(peers)) < 3:
                assert await service.call("unary")(b"x") == b"x"
                state = service.channel.get_state()
                while state is grpc.ChannelConnectivity.READY:  # until the server told it to go
                    await service.channel.wait_for_state_change(state)
                    state = service.channel.get_state()


def test_a_limit_of_the_system_that_is_too_low_is_told():
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = 256 + SPARE_FILES
    assert soft > most
    code = (
        "import logging, resource; logging.basicConfig(format='%(message)s %(setting)s"
        " %(max_connections)s %(max_open_files)s');"
        f" resource.setrlimit(resource.RLIMIT_NOFILE, (128, {most}));"
        " from svc_common.open_files import allow_connections as allow;"
        " allow('X', 256); allow('Y', 257)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = f"fewer files may be open than connections are taken Y 257 {most}\n"
    assert told.stderr == expected
