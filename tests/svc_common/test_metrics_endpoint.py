"""The metrics port answers whatever is asked, and forgets who hangs up."""

import socket
import threading
import urllib.request
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, Gauge

from svc_common.metrics_endpoint import MAX_CONNECTIONS, start_metrics_endpoint


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(
    "accept",
    [
        "text/plain",
        "application/openmetrics-text; version=1.0.0",
        "application/openmetrics-text; version=x.y",
        "text/plain; version=1.x; escaping=\xff",
        ",;=",
    ],
)
def test_any_accept_header_is_answered(
    host: str, accept: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A version that is no number left a traceback in the log, and the scraper without answer."""
    registry = CollectorRegistry()
    Gauge("here", "Always 1.", registry=registry).set(1)
    endpoint, thread = start_metrics_endpoint(0, host, registry)
    try:
        address = f"[{host}]" if ":" in host else host
        url = f"http://{address}:{endpoint.server_port}/metrics"
        request = urllib.request.Request(url, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=20) as response:
            assert b"\nhere 1.0\n" in response.read()
        with socket.create_connection((host, endpoint.server_port)) as hasty:
            hasty.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        with urllib.request.urlopen(url, timeout=20) as response:
            assert response.status == 200
    finally:
        endpoint.shutdown()
        endpoint.server_close()
        thread.join()
    assert capfd.readouterr() == ("", "")


def test_silent_connections_take_few_threads_and_keep_out_no_scraper() -> None:
    """Each had a thread of its own, however many there were."""
    num_before = threading.active_count()
    endpoint, thread = start_metrics_endpoint(0, "127.0.0.1", CollectorRegistry())
    url = f"http://127.0.0.1:{endpoint.server_port}/metrics"
    try:
        with ExitStack() as opened:
            address = ("127.0.0.1", endpoint.server_port)
            silent = [
                opened.enter_context(socket.create_connection(address, timeout=20))
                for _ in range(3 * MAX_CONNECTIONS)
            ]
            with urllib.request.urlopen(url, timeout=20) as response:
                assert response.status == 200
            assert [one.recv(1) for one in silent[: 2 * MAX_CONNECTIONS]] == (
                [b""] * 2 * MAX_CONNECTIONS
            )
            # Those that were closed may be about to end.
            assert threading.active_count() - num_before <= 2 * MAX_CONNECTIONS
    finally:
        endpoint.shutdown()
        endpoint.server_close()
        thread.join()
