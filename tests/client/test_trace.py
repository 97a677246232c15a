"""Both clients carry their caller's trace to the server, and nothing else of its context."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from pad_client import GeneratorClient
from tests.client.fake_server import Failure, FakeServer

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def current() -> Iterator[None]:
    """A span, and baggage, that are current."""
    its = SpanContext(
        int(TRACE_ID, 16),
        int(SPAN_ID, 16),
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=TraceState([("vendor", "1")]),
    )
    whole = baggage.set_baggage("user", "alice", trace.set_span_in_context(NonRecordingSpan(its)))
    token = context.attach(whole)
    yield
    context.detach(token)


def traces(fake: FakeServer) -> list[tuple[str | None, str | None]]:
    return [(each.get("traceparent"), each.get("tracestate")) for each in fake.metadata]


async def test_a_call_is_part_of_its_callers_trace(
    client: Any, fake: FakeServer, current: None
) -> None:
    await client.complete(prompt="Hi")
    async with client.generate(prompt="Hi") as stream:
        assert [token async for token in stream]
    assert traces(fake) == [(f"00-{TRACE_ID}-{SPAN_ID}-01", "vendor=1")] * 2
    assert not [each for each in fake.metadata if "baggage" in each]


async def test_a_call_outside_of_a_trace_carries_none(client: Any, fake: FakeServer) -> None:
    await client.complete(prompt="Hi")
    assert traces(fake) == [(None, None)]


async def test_a_stream_keeps_the_trace_it_was_begun_in(
    client: Any, fake: FakeServer, current: None
) -> None:
    """Wherever its tokens are read: a call that is sent again was once part of the reader's."""
    fake.failure, fake.max_failures = Failure(grpc.StatusCode.UNAVAILABLE, pushback_ms="1"), 1
    async with client.generate(prompt="Hi") as stream:
        token = context.attach(context.Context())
        assert [token async for token in stream]
        context.detach(token)
    assert traces(fake) == [(f"00-{TRACE_ID}-{SPAN_ID}-01", "vendor=1")] * 2


async def test_what_the_caller_names_itself_comes_first(
    address: str, fake: FakeServer, current: None
) -> None:
    own = f"00-{'1' * 32}-{'2' * 16}-01"

    def call() -> None:
        with GeneratorClient(address, metadata=[("traceparent", own)]) as client:
            client.complete(prompt="Hi")

    await asyncio.to_thread(call)
    assert traces(fake) == [(own, None)]


def test_without_opentelemetry_there_is_no_trace_and_no_import() -> None:
    script = (
        "import sys; sys.modules['opentelemetry'] = None;"
        "from pad_client.trace_context import current_trace; print(current_trace())"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "()\n"
