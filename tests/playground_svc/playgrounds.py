"""Playground processes of a test's own, requests to them, and generators they can be put before."""

import asyncio
import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from pad.v1.generator_pb2_grpc import add_GeneratorServiceServicer_to_server
from pad.v1.profile_pb2_grpc import add_ProfileServiceServicer_to_server
from tests.client.fake_server import FakeServer

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 30.0
ASK: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Can you find me a hotel in Paris?"}],
    "max_tokens": 40,
}


@dataclass
class Answered:
    """A whole HTTP response."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def events(self) -> list[tuple[str, Any]]:
        """The server-sent events, as kind and value."""
        pairs = [event.split("\n") for event in self.text.split("\n\n")[:-1]]
        return [
            (kind.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
            for kind, data in pairs
        ]


def ask(address: str, path: str, body: Any = None, *, method: str = "", **headers: str) -> Answered:
    """Send one request; a body makes it a POST with JSON."""
    connection = http.client.HTTPConnection(address, timeout=WAIT_S)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        names = {"content-type": "application/json", **names}
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, data, names)
        response = connection.getresponse()
        told = {name.lower(): value for name, value in response.getheaders()}
        return Answered(response.status, told, response.read().decode())
    finally:
        connection.close()


@contextmanager
def running_playground(
    generator: str, **settings: str
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Start a playground in front of a generator; it says itself where it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "playground_svc"],
        env={
            **os.environ,
            "PLAYGROUND_GENERATOR": generator,
            "PLAYGROUND_LISTEN": "127.0.0.1:0",
            **settings,
        },
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            event = json.loads(line)
            assert event["event"] == "serving", line
            yield process, event["address"]
        finally:
            process.kill()


class FakeGenerator:
    """A `FakeServer` on a thread of its own, for callers that know no event loop."""

    def __init__(self, server: FakeServer) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.server = server
        self.address = ""

    def wait(self, event: asyncio.Event) -> None:
        """Return once something has happened at the server."""
        self._call(asyncio.wait_for(event.wait(), WAIT_S))

    def __enter__(self) -> "FakeGenerator":
        self._thread.start()
        self.address = self._call(self._start())
        return self

    def __exit__(self, *error: object) -> None:
        self._call(self._grpc.stop(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    async def _start(self) -> str:
        self._grpc = grpc.aio.server()
        add_GeneratorServiceServicer_to_server(self.server, self._grpc)
        add_ProfileServiceServicer_to_server(self.server, self._grpc)
        port = self._grpc.add_insecure_port("127.0.0.1:0")
        await self._grpc.start()
        return f"127.0.0.1:{port}"
