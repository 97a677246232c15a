"""Callers who open connections and ask nothing on them: nobody else is kept out."""

import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from edge_svc.http_server import make_room
from edge_svc.open_connections import OpenConnections
from svc_common.settings import SettingsError
from tests.edge_svc.edges import EdgeProcess, metric, running_edge, until
from tests.tls_keys import Authority

MOST = 3
LIMITS = {"EDGE_MAX_CONNECTIONS": str(MOST), "EDGE_MAX_REQUESTS": "2"}
PROBE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
HALF_A_REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 2\r\n\r\n{"
)
PUSHED_OUT = 'pad_edge_crowded_connections_total{which="idle"}'
IN_WORK = "pad_edge_requests_in_work"


@pytest.fixture(scope="module")
def crowded() -> Iterator[EdgeProcess]:
    """An edge of three connections; its generator is not needed."""
    with running_edge("127.0.0.1:1", **LIMITS) as edge:
        yield edge


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connect(edge: EdgeProcess, opened: ExitStack) -> socket.socket:
    host, port = edge.address.split(":")
    return opened.enter_context(socket.create_connection((host, int(port)), timeout=10))


def probe(connection: socket.socket) -> bool:
    """Ask for the edge's health; return whether it said so."""
    connection.sendall(PROBE)
    told = b""
    while not told.endswith(b"ok\n"):
        received = connection.recv(65536)
        if not received:
            return False
        told += received
    return told.startswith(b"HTTP/1.1 200")


def is_closed(connection: socket.socket) -> bool:
    with suppress(ConnectionResetError):
        return connection.recv(65536) == b""
    return True


def test_a_new_connection_takes_the_place_of_the_one_that_waited_longest(
    crowded: EdgeProcess, opened: ExitStack
) -> None:
    """Their number had no limit but that of the process's open files."""
    first, second, third = (connect(crowded, opened) for _ in range(MOST))
    for connection in (second, third, first, second):  # third has waited longest now
        assert probe(connection)
    before = metric(crowded.metrics_address, PUSHED_OUT)
    fourth = connect(crowded, opened)
    assert probe(fourth)
    assert is_closed(third)
    assert metric(crowded.metrics_address, PUSHED_OUT) == before + 1
    for connection in (first, second, fourth):
        assert probe(connection)


def test_a_flood_of_silent_connections_ends_no_request_in_work(
    crowded: EdgeProcess, opened: ExitStack
) -> None:
    busy = connect(crowded, opened)
    busy.sendall(HALF_A_REQUEST)
    until(lambda: metric(crowded.metrics_address, IN_WORK) == 1)
    for _ in range(10 * MOST):
        connect(crowded, opened)
    assert probe(connect(crowded, opened))
    busy.sendall(b"}")
    assert busy.recv(65536).startswith(b"HTTP/1.1 400")  # {} lacks its fields


def test_handshakes_that_never_end_keep_out_nobody(tmp_path: Path, opened: ExitStack) -> None:
    """They are connections before any request, and before asyncio tells of them."""
    authority = Authority(tmp_path, "public")
    keys = authority.issue("edge", "IP:127.0.0.1")
    files = {"EDGE_TLS_CERT_FILE": str(keys.cert), "EDGE_TLS_KEY_FILE": str(keys.key)}
    trusted = ssl.create_default_context(cafile=authority.cert)
    with running_edge("127.0.0.1:1", **LIMITS, **files) as edge:
        silent = [connect(edge, opened) for _ in range(10 * MOST)]
        secured = trusted.wrap_socket(connect(edge, opened), server_hostname="127.0.0.1")
        assert probe(opened.enter_context(secured))
        assert all(is_closed(connection) for connection in silent[: -(MOST - 1)])


def test_where_all_are_in_work_a_new_one_is_closed_and_a_closed_one_leaves_its_place(
    opened: ExitStack,
) -> None:
    refused = []
    connections = OpenConnections(2, on_refused=lambda: refused.append(True))
    pairs = [socket.socketpair() for _ in range(3)]
    sockets = [opened.enter_context(one) for pair in pairs for one in pair][::2]
    numbers = [one.fileno() for one in sockets]
    for one, number in zip(sockets[:2], numbers, strict=False):
        assert connections.add(one)
        connections.begin(number)
    assert not connections.add(sockets[2])
    assert len(refused) == 1
    connections.remove(numbers[0])
    assert connections.add(sockets[2])
    assert len(connections) == 2
    connections.end(numbers[2])  # it was in no work
    connections.begin(numbers[0])  # it is gone
    assert len(connections) == 2


def test_there_are_more_connections_than_requests_so_that_probes_find_a_place() -> None:
    with pytest.raises(SettingsError) as caught:
        make_room(8, 8, "EDGE_")
    rule = "must be more than EDGE_MAX_REQUESTS=8"
    assert str(caught.value) == f"EDGE_MAX_CONNECTIONS: {rule}, got 8"


def test_the_process_may_open_as_many_files_as_it_takes_connections() -> None:
    """Many systems begin with 1024: past them no connection was taken, of probes neither."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, before[0]), before[1]))
    try:
        make_room(1000, 8, "EDGE_")
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 1500
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
