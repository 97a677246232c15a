"""Start the HTTP edge: build every object, hand it down, serve until told to stop."""

from svc_common.lifetime import exit_on_signals

if __name__ == "__main__":  # before the imports, which take seconds
    exit_on_signals()

import asyncio
import importlib.metadata
import logging
import os
import sys
from functools import partial

from edge_svc.app import Edge, new_app
from edge_svc.generator import Generator, open_line, passes_tokens
from edge_svc.http_server import make_room
from edge_svc.metrics import EdgeMetrics
from edge_svc.open_connections import OpenConnections
from edge_svc.server import serve
from edge_svc.settings import PREFIX, EdgeSettings
from svc_common.logs import configure_logging, log_everything, log_failed_start
from svc_common.metrics import new_registry
from svc_common.settings import SettingsError, load_settings
from svc_common.tracing import check_tracing, open_tracer

logger = logging.getLogger(__name__)


def main() -> int:
    """Return the exit status: 0 after a drain, 2 where the settings cannot be used."""
    configure_logging("info", sys.stderr)  # until the settings are known
    try:
        settings = load_settings(EdgeSettings, PREFIX, os.environ)
        configure_logging(settings.log_level, sys.stderr)
        check_tracing(settings, PREFIX)
        asyncio.run(run(settings))
    except SettingsError as error:
        log_failed_start(error)
        return 2
    return 0


async def run(settings: EdgeSettings) -> None:
    """Serve until SIGTERM."""
    make_room(settings.max_connections, settings.max_requests, PREFIX)
    version = importlib.metadata.version("pad-serving")
    registry = new_registry("edge", version)
    metrics = EdgeMetrics(registry)
    tracer = open_tracer(settings, PREFIX, "edge", version, registry)
    async with open_line(settings) as line:
        may_pass = passes_tokens(settings)
        if not may_pass:
            logger.warning("callers' tokens are not passed on: no TLS to the generator")
        edge = Edge(settings, Generator(line, passes_tokens=may_pass), metrics)
        app = new_app(settings, edge, metrics, tracer)
        connections = OpenConnections(
            settings.max_connections,
            partial(metrics.crowded_out, "idle"),
            partial(metrics.crowded_out, "new"),
        )
        try:
            await serve(settings, app, registry, edge, connections)
        finally:
            if tracer is not None:
                tracer.close()


if __name__ == "__main__":
    log_everything()
    sys.exit(main())
