"""`pad doctor` on ports that are taken, by servers of ours and by others."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import pytest

from pad_client.doctor import Level, Server, machine
from pad_client.doctor.server import check_server
from tests.client.test_doctor import by_check, levels
from tests.tls_keys import Authority


class _Healthy(BaseHTTPRequestHandler):
    path_of_health = ""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == self.path_of_health else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def http_server(path: str) -> Iterator[int]:
    """Yield the port of a server that answers a GET of one path."""
    handler = type("Handler", (_Healthy,), {"path_of_health": path})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_occupied_port_is_found_and_can_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setattr(machine, "_PORTS", {port: "GENERATOR_LISTEN"})
        found = by_check(machine.check_ports())[f"machine.port_{port}"]
        assert found.level is Level.FAIL
        assert "GENERATOR_LISTEN" in found.advice
        assert levels(machine.check_ports([port])) == {f"machine.port_{port}": "ok"}
    assert by_check(machine.check_ports())[f"machine.port_{port}"].found == "free"


def test_playground_and_edge_are_known_by_their_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """The playground has no /readyz."""
    with http_server("/healthz") as port:
        monkeypatch.setattr(machine, "_PORTS", {port: "PLAYGROUND_LISTEN"})
        assert levels(machine.check_ports()) == {f"machine.port_{port}": "ok"}
        monkeypatch.setattr(machine, "EDGE_PORT", port)
        assert levels(machine.check_ports()) == {f"machine.port_{port}": "fail"}


@pytest.mark.parametrize("asks_for_certificates", [False, True])
def test_a_port_that_answers_only_with_tls_may_be_one_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, asks_for_certificates: bool
) -> None:
    pair = Authority(tmp_path, "ca").issue("server", "DNS:pad.test")
    keys = [(pair.key.read_bytes(), pair.cert.read_bytes())]
    credentials = grpc.ssl_server_credentials(
        keys, pair.cert.read_bytes() if asks_for_certificates else None, asks_for_certificates
    )
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        monkeypatch.setattr(machine, "_PORTS", {port: "REWARD_LISTEN"})
        monkeypatch.setattr(machine, "_GRPC_PORTS", (port,))
        finding = by_check(machine.check_ports())[f"machine.port_{port}"]
        asked = Server(f"127.0.0.1:{port}", is_wanted=False, timeout_s=20, access={})
        (told,) = check_server(asked)
    finally:
        server.stop(None).wait()
    assert (finding.level, "only with TLS" in finding.found) == (Level.WARN, True)
    assert "`pad --ca-file FILE --token-file FILE doctor`" in finding.advice
    assert "another port: REWARD_LISTEN" in finding.advice
    assert (told.level, "--ca-file" in told.advice) == (Level.WARN, True)
