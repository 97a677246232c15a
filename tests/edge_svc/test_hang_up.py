"""What is closed when a caller is gone, and what becomes of a fault of our own."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from edge_svc.app import Edge, new_app
from edge_svc.generator import Generator
from edge_svc.hang_up import CallerGoneError, EventStream, unless_hung_up
from edge_svc.metrics import EdgeMetrics
from edge_svc.settings import EdgeSettings


class Source:
    """Endless pieces, and whether their generator was closed."""

    def __init__(self) -> None:
        self.is_closed = False

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x"
        finally:
            self.is_closed = True


async def chunks(source: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async for piece in source:
        yield piece


async def stays() -> Any:
    await asyncio.Event().wait()


async def is_gone() -> Any:
    return {"type": "http.disconnect"}


async def never_returns(message: Any) -> None:
    if message["type"] == "http.response.body":
        await stays()


async def takes_all(message: Any) -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("receive", "send"),
    [(is_gone, takes_all), (is_gone, never_returns), (stays, never_returns)],
    ids=["gone", "gone-and-stuck", "reads-nothing"],
)
async def test_a_stream_closes_its_source_with_its_caller(
    receive: Callable[[], Any], send: Callable[[Any], Any]
) -> None:
    source = Source()
    pieces = source.pieces()
    await anext(pieces)  # as the first event is read before the response begins
    response = EventStream(chunks(pieces), pieces, send_timeout_s=0.01)
    with pytest.raises(CallerGoneError):
        await response({"type": "http"}, receive, send)
    assert source.is_closed


async def test_work_that_is_done_wins_over_a_hang_up() -> None:
    async def work() -> str:
        return "done"

    assert await unless_hung_up(is_gone, work()) == "done"
    assert await unless_hung_up(stays, work()) == "done"


async def test_work_ends_before_the_hang_up_is_told() -> None:
    events = []

    async def work() -> None:
        try:
            await stays()
        finally:
            await asyncio.sleep(0)
            events.append("ended")

    with pytest.raises(CallerGoneError):
        await unless_hung_up(is_gone, work())
    assert events == ["ended"]


class BrokenGenerator:
    async def info_for(self, caller: object) -> None:
        raise RuntimeError("a bug with a secret in it")


async def test_a_fault_of_our_own_is_an_error_without_its_cause() -> None:
    settings = EdgeSettings(generator=("nowhere:1",))
    metrics = EdgeMetrics(CollectorRegistry())
    edge = Edge(settings, cast(Generator, BrokenGenerator()), metrics)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/models",
        "headers": [],
        "query_string": b"",
    }
    with pytest.raises(RuntimeError):  # which the server logs
        await new_app(settings, edge, metrics)(scope, stays, send)
    assert sent[0]["status"] == 500
    error = json.loads(sent[1]["body"])["error"]
    assert (error["message"], error["code"]) == ("internal error", "internal_error")
