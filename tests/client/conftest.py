"""A running fake server, both clients behind one asynchronous face, and the command."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc.aio
import pytest
from typer.testing import CliRunner, Result

from pad_client import AsyncGeneratorClient, GeneratorClient, Profile, Summary, Token, TokenStream
from pad_client.cli.app import app
from tests.client.fake_server import FakeServer, add_to_server

Pad: TypeAlias = Callable[..., Awaitable[Result]]


class ThreadedStream:
    """A `TokenStream` read on another thread, so that the fake server's loop stays free."""

    def __init__(self, stream: TokenStream) -> None:
        self._stream = stream

    @property
    def summary(self) -> Summary:
        return self._stream.summary

    def __aiter__(self) -> "ThreadedStream":
        return self

    async def __anext__(self) -> Token:
        token = await asyncio.to_thread(next, self._stream, None)
        if token is None:
            raise StopAsyncIteration
        return token

    async def __aenter__(self) -> "ThreadedStream":
        self._stream.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._stream.__exit__(*error)

    async def aclose(self) -> None:
        self._stream.close()


class ThreadedClient:
    """A `GeneratorClient` with the methods of the asynchronous one."""

    def __init__(self, client: GeneratorClient) -> None:
        self._client = client

    def generate(self, **options: Any) -> ThreadedStream:
        return ThreadedStream(self._client.generate(**options))

    async def list_profiles(self, **options: Any) -> AsyncIterator[Profile]:
        found = self._client.list_profiles(**options)
        while (profile := await asyncio.to_thread(next, found, None)) is not None:
            yield profile

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            return await asyncio.to_thread(getattr(self._client, name), *args, **options)

        return call


@pytest.fixture
async def fake() -> FakeServer:
    return FakeServer()


@pytest.fixture
async def address(fake: FakeServer) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture(params=["sync", "async"])
async def client(
    request: pytest.FixtureRequest, address: str
) -> AsyncIterator[AsyncGeneratorClient | ThreadedClient]:
    if request.param == "async":
        async with AsyncGeneratorClient(address, timeout_s=20) as client:
            yield client
    else:
        with GeneratorClient(address, timeout_s=20) as threaded:
            yield ThreadedClient(threaded)


@pytest.fixture
def pad(address: str) -> Pad:
    """The `pad` command, pointed at the fake server."""

    async def run(*arguments: str, stdin: str | None = None) -> Result:
        environment = {"PAD_SERVER": address, "COLUMNS": "100", "NO_COLOR": "1"}
        return await asyncio.to_thread(
            CliRunner().invoke, app, list(arguments), env=environment, input=stdin
        )

    return run
