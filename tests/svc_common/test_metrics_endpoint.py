"""The metrics port answers whatever is asked, and forgets who hangs up."""

import socket
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Gauge

from svc_common.metrics_endpoint import start_metrics_endpoint


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
