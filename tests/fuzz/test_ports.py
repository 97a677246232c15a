"""Whatever reaches a port, be it no gRPC or no HTTP: the next caller is served as ever."""

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from pad_client.embedded import EmbeddedStack
from tests.fuzz.campaign import check_unharmed, scrape
from tests.fuzz.probes import assert_same, probe
from tests.fuzz.tiny_stack import SERVICES, complaints

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
NUM_CONNECTIONS = 150
NUM_IDLE = 200
HTTP = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=x.y\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=-1.0\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nAccept: text/plain; version=1.0.0; escaping=\xff\r\n\r\n",
    b"GET /metrics?name[]=no_such HTTP/1.0\r\nAccept-Encoding: gzip;q=x\r\n\r\n",
    b"GET /metrics?name[]=%ff%fe&name[] HTTP/1.0\r\n\r\n",
    b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nabc",
    b"OPTIONS * HTTP/1.1\r\n\r\n",
    b"GET /metrics HTTP/9.9\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 500 + b"\r\n",
    b"GET /metrics HTTP/1.1\r\nContent-Length: x\r\nHost: \x00\r\n\r\n",
    b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the begin of a TLS handshake
]


def frame(rng: random.Random) -> bytes:
    """Return an HTTP/2 frame of any type, flags and stream, not always as long as it says."""
    payload = rng.randbytes(rng.choice([0, 1, 4, 5, 8, 40, 400]))
    length = len(payload) if rng.random() < 0.8 else rng.choice([0, 1, 1 << 14, (1 << 24) - 1])
    kind, flags = rng.randrange(11), rng.choice([0, 1, 4, 5, 0x24, 0xFF])
    stream = rng.choice([0, 1, 2, 3, (1 << 31) - 1, 1 << 31])
    return length.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def garbage(seed: int) -> Iterator[bytes]:
    """Yield what to send on each connection."""
    rng = random.Random(seed)
    for _ in range(NUM_CONNECTIONS):
        frames = b"".join(frame(rng) for _ in range(rng.randint(1, 30)))
        yield rng.choice(
            [
                rng.randbytes(rng.choice([1, 9, 24, 5000])),
                PREFACE[: rng.randrange(len(PREFACE) + 1)],
                PREFACE + SETTINGS + frames,
                PREFACE + SETTINGS + frame(rng) * 300,
                rng.choice(HTTP),
                rng.choice(HTTP)[: rng.randrange(20)],
            ]
        )


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def send(address: str, data: bytes, *, is_read: bool, is_reset: bool) -> None:
    """Send bytes, read what comes if anything does, and leave, politely or not."""
    with closing(connect(address)) as connection:
        try:
            connection.sendall(data)
            if is_read:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass
        except OSError:
            pass  # the server may well hang up
        if is_reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


@pytest.mark.parametrize("kind", ["grpc", "metrics"])
def test_garbage_at_a_port_hurts_nobody(stack: EmbeddedStack, kind: str) -> None:
    """A request for a version that is no number, or a reset, left tracebacks in the log."""
    before, starts = probe(stack), dict.fromkeys(SERVICES, 0)
    complaints(stack, starts)
    addresses = stack.addresses if kind == "grpc" else stack.metrics_addresses
    for name in SERVICES:
        rng = random.Random(f"{kind} {name}")
        for data in garbage(seed=5):
            is_read = kind == "metrics" or rng.random() < 0.1
            send(addresses[name], data, is_read=is_read, is_reset=rng.random() < 0.3)
        if kind == "metrics":
            for data in HTTP:
                send(addresses[name], data, is_read=True, is_reset=False)
                send(addresses[name], data, is_read=False, is_reset=True)
    check_unharmed(stack, starts)
    assert_same(before, probe(stack))


@pytest.mark.parametrize("kind", ["grpc", "metrics"])
def test_connections_that_say_nothing_keep_nobody_out(stack: EmbeddedStack, kind: str) -> None:
    before = probe(stack)
    addresses = stack.addresses if kind == "grpc" else stack.metrics_addresses
    with ExitStack() as held:
        for name in SERVICES:
            for i in range(NUM_IDLE):
                connection = held.enter_context(closing(connect(addresses[name])))
                connection.sendall(b"GET /metr"[: i % 9] if kind == "metrics" else PREFACE[: i % 9])
        assert_same(before, probe(stack))
        for name in SERVICES:
            assert any(line.startswith("pad_build_info") for line in scrape(stack, name))
