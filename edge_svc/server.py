"""Runs the HTTP server from binding its address to the end of its drain."""

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from edge_svc.settings import PREFIX, EdgeSettings
from svc_common.metrics_endpoint import start_metrics_endpoint
from svc_common.settings import SettingsError
from svc_common.tls import TlsFiles, server_context

logger = logging.getLogger(__name__)
_BACKLOG = 2048


class Drainable(Protocol):
    """What says of itself that it takes no more work."""

    is_draining: bool


class _Server(uvicorn.Server):
    """A server whose signals are handled here: uvicorn's own way ends the process by them."""

    def capture_signals(self) -> Any:
        return nullcontext()


async def serve(
    settings: EdgeSettings, app: ASGIApp, registry: CollectorRegistry, edge: Drainable
) -> None:
    """Serve until SIGTERM or SIGINT and then let running answers finish; a second one ends them.

    Raises:
        SettingsError: An address cannot be listened on, or a TLS file not be used.
    """
    listener = _bind(settings.listen)
    host, port = listener.getsockname()[:2]
    with listener, _metrics_endpoint(settings, registry) as metrics_port:
        server = _Server(server_config(settings, app))
        with _signals(server, edge, settings.drain_s):
            extra = {"address": f"{host}:{port}", "metrics_port": metrics_port}
            logger.info("serving", extra=extra)
            await server.serve([listener])
            logger.info("stopped")


def server_config(settings: EdgeSettings, app: ASGIApp) -> uvicorn.Config:
    """Return how uvicorn serves the application.

    Raises:
        SettingsError: A TLS file cannot be used.
    """
    config = uvicorn.Config(
        app,
        loop="none",
        http="h11",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,  # ours
        log_level="warning",  # starts and ends are told by us
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )
    files = TlsFiles(f"{PREFIX}TLS_", settings.tls_cert_file, settings.tls_key_file, "")
    context = server_context(files)
    if context is not None:
        config.load()
        config.ssl = context
    return config


def _bind(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        raise _listen_error("LISTEN", listen) from error
    # asyncio does this only for sockets made with the protocol's number; without it the body of an
    # answer waits 40 ms for the caller's acknowledgement of its headers. Connections inherit it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setblocking(False)
    return listener


@contextmanager
def _signals(server: uvicorn.Server, edge: Drainable, drain_s: float) -> Iterator[None]:
    def on_signal() -> None:
        if server.should_exit:
            server.force_exit = True
            return
        edge.is_draining = True
        server.should_exit = True
        logger.info("draining", extra={"drain_s": drain_s})

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextmanager
def _metrics_endpoint(settings: EdgeSettings, registry: CollectorRegistry) -> Iterator[int]:
    """Offer the registry over HTTP, on a thread of its own, and yield the port."""
    host = settings.listen.rpartition(":")[0].strip("[]")
    try:
        endpoint, thread = start_metrics_endpoint(settings.metrics_port, host, registry)
    except OSError as error:
        raise _listen_error("METRICS_PORT", f"{host}:{settings.metrics_port}") from error
    try:
        yield endpoint.server_port
    finally:
        endpoint.shutdown()
        endpoint.server_close()
        thread.join()


def _listen_error(setting: str, address: str) -> SettingsError:
    return SettingsError(
        f"{PREFIX}{setting}: must be a free address of this machine, got {address}"
    )
