"""Bodies and connections that are meant to hold up others."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest

from edge_svc.errors import ApiError
from edge_svc.schema import ChatBody, CompletionBody, parse_body
from tests.edge_svc.edges import MODEL, SAY, EdgeProcess, running_edge

MAX_REFUSAL_S = 0.5  # of a body of 1 MB; it was 3 s and 1 GB
SIZE = 150_000  # items that make a body of about 1 MB
CHAT: dict[str, Any] = {"model": MODEL, "messages": SAY}
TURN = {"role": "user", "content": "a"}


def many(prefix: str, count: int = SIZE) -> dict[str, int]:
    return {f"{prefix}{i}": 1 for i in range(count)}


BODIES: dict[str, dict[str, Any]] = {
    "unknown fields": {**CHAT, **many("a")},
    "unknown options": {**CHAT, "pad": many("a")},
    "unknown fields of turns": {**CHAT, "messages": [{**TURN, **many("a", 40)}] * 4000},
    "unknown fields of parts": {
        **CHAT,
        "messages": [{"role": "user", "content": [many("a", 50)] * 1000}] * 3,
    },
    "preferences that are none": {**CHAT, "pad": {"preferences": [1] * 4 * SIZE}},
    "turns that are none": {**CHAT, "messages": [1] * 4 * SIZE},
    "deep lists": {**CHAT, "pad": {"preferences": [[[[1]]]] * SIZE}},
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_of_nothing_but_mistakes_is_refused_quickly(name: str) -> None:
    """Every mistake was collected, and made into an object of its own, to tell of one."""
    started = time.process_time()
    with pytest.raises(ApiError) as caught:
        parse_body(ChatBody, BODIES[name])
    assert time.process_time() - started < MAX_REFUSAL_S
    assert caught.value.status == 400
    assert len(json.dumps(caught.value.body())) < 1000


def test_prompts_that_are_none_are_refused_quickly() -> None:
    started = time.process_time()
    with pytest.raises(ApiError):
        parse_body(CompletionBody, {"model": MODEL, "prompt": [1] * 4 * SIZE})
    assert time.process_time() - started < MAX_REFUSAL_S


def test_a_fields_long_name_is_not_sent_back_whole() -> None:
    with pytest.raises(ApiError) as caught:
        parse_body(ChatBody, {**CHAT, "x" * 100_000: 1})
    assert len(json.dumps(caught.value.body())) < 1000


@pytest.fixture(scope="module")
def hasty() -> Iterator[EdgeProcess]:
    """An edge that waits for nothing long; its generator is not needed."""
    limits = {"EDGE_BODY_TIMEOUT_S": "0.3", "EDGE_KEEP_ALIVE_S": "1"}
    with running_edge("127.0.0.1:1", **limits) as edge:
        yield edge


def connect(edge: EdgeProcess) -> socket.socket:
    host, port = edge.address.split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def is_closed_in_time(connection: socket.socket, trickle: bytes) -> bool:
    """Send a byte now and then; tell whether the server hangs up within some seconds."""
    give_up_at = time.monotonic() + 8
    connection.settimeout(0.05)  # of each wait for the server's end, which is what paces this
    with suppress(ConnectionError):
        while time.monotonic() < give_up_at:
            with suppress(TimeoutError):
                if not connection.recv(65536):
                    return True
            connection.sendall(trickle)
        return False
    return True


@pytest.mark.parametrize(
    ("head", "trickle"),
    [
        (b"", b""),  # nothing at all
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n"),  # a head without an end
        (b"G", b""),
        # What is left of a body that was refused.
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
            b"Content-Length: 1000000\r\n\r\n",
            b"x",
        ),
    ],
    ids=["nothing", "head", "first byte", "refused body"],
)
def test_a_connection_on_which_nothing_useful_comes_is_closed(
    hasty: EdgeProcess, head: bytes, trickle: bytes
) -> None:
    """It stayed open for as long as a byte came now and then."""
    with connect(hasty) as connection:
        connection.sendall(head)
        assert is_closed_in_time(connection, trickle)


def test_a_connection_serves_one_request_after_another(hasty: EdgeProcess) -> None:
    host, port = hasty.address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    with closing(connection):
        sockets = set()
        for _ in range(3):
            connection.request("GET", "/healthz")
            sockets.add(connection.sock)
            assert connection.getresponse().read() == b"ok\n"
        assert len(sockets) == 1


def test_a_body_of_two_lengths_is_refused(hasty: EdgeProcess) -> None:
    """A proxy that goes by the other length would take a part of the body for a request."""
    with connect(hasty) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
