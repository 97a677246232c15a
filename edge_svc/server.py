"""Runs the edge from binding its address to the end of its drain: HTTP, TLS and metrics."""

from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from edge_svc.http_server import Drainable, bind, http_config, listen_error, run_until_told
from edge_svc.open_connections import OpenConnections
from edge_svc.settings import PREFIX, EdgeSettings
from svc_common.metrics_endpoint import start_metrics_endpoint
from svc_common.tls import TlsFiles, server_context


async def serve(
    settings: EdgeSettings,
    app: ASGIApp,
    registry: CollectorRegistry,
    edge: Drainable,
    connections: OpenConnections,
) -> None:
    """Serve until SIGTERM or SIGINT and then let running answers finish; a second one ends them.

    Raises:
        SettingsError: An address cannot be listened on, or a TLS file not be used.
    """
    listener = bind(settings.listen, f"{PREFIX}LISTEN", connections)
    with listener, _metrics_endpoint(settings, registry) as metrics_port:
        config = server_config(settings, app, connections)
        await run_until_told(config, listener, edge, metrics_port=metrics_port)


def server_config(
    settings: EdgeSettings, app: ASGIApp, connections: OpenConnections
) -> uvicorn.Config:
    """Return how uvicorn serves the application.

    Raises:
        SettingsError: A TLS file cannot be used.
    """
    config = http_config(
        app,
        connections,
        keep_alive_s=settings.keep_alive_s,
        arrival_s=settings.body_timeout_s,
        drain_s=settings.drain_s,
    )
    files = TlsFiles(f"{PREFIX}TLS_", settings.tls_cert_file, settings.tls_key_file, "")
    context = server_context(files)
    if context is not None:
        config.load()
        config.ssl = context
    return config


@contextmanager
def _metrics_endpoint(settings: EdgeSettings, registry: CollectorRegistry) -> Iterator[int]:
    """Offer the registry over HTTP, on a thread of its own, and yield the port."""
    host = settings.listen.rpartition(":")[0].strip("[]")
    try:
        endpoint, thread = start_metrics_endpoint(settings.metrics_port, host, registry)
    except OSError as error:
        address = f"{host}:{settings.metrics_port}"
        raise listen_error(f"{PREFIX}METRICS_PORT", address) from error
    try:
        yield endpoint.server_port
    finally:
        endpoint.shutdown()
        endpoint.server_close()
        thread.join()
