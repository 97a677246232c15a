"""The Prometheus endpoint of a process: whatever reaches it, it keeps serving and logs nothing."""

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

IDLE_S = 10.0  # a connection that says nothing for longer is closed, else its thread stays for ever
MAX_CONNECTIONS = 32  # each has a thread; a scrape takes milliseconds

_App = Callable[[dict[str, Any], Any], Iterable[bytes]]


class _Server(ThreadingMixIn, WSGIServer):
    """Serves each connection on a thread; one that is too many takes the place of the oldest."""

    daemon_threads = True
    request_queue_size = 128  # connections that wait to be taken; 5 there

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._lock = threading.Lock()
        self._open: dict[Any, None] = {}  # sockets, oldest first

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin to serve a connection."""
        with self._lock:
            oldest = next(iter(self._open)) if len(self._open) >= MAX_CONNECTIONS else None
            if oldest is not None:
                del self._open[oldest]
                with suppress(OSError):  # its caller was faster
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread reads an end, and closes it
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a scraper that hangs up is no error of ours."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = IDLE_S

    def log_message(self, format: str, *args: Any) -> None:
        """Log no requests."""


def start_metrics_endpoint(
    port: int, host: str, registry: CollectorRegistry
) -> tuple[WSGIServer, threading.Thread]:
    """Offer a registry over HTTP; return the server and the thread that runs it.

    Raises:
        OSError: The address cannot be listened on.
    """
    kind = _ServerV6 if ":" in host else _Server
    endpoint = make_server(host, port, _forgiving(make_wsgi_app(registry)), kind, _Handler)
    thread = threading.Thread(target=endpoint.serve_forever, daemon=True)
    thread.start()
    return endpoint, thread


def _forgiving(app: _App) -> _App:
    """Answer as if no format was asked for where what was asked for cannot be read."""

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            return app(environ, start_response)
        except (TypeError, ValueError):  # version=x, and what prometheus_client makes of it
            plain = {key: value for key, value in environ.items() if key != "HTTP_ACCEPT"}
            return app(plain, start_response)

    return answer
