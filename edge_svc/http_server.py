"""What every HTTP server here has in common: its socket, how uvicorn runs, and its drain."""

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp, Scope

from edge_svc.connection import ImpatientConnection
from edge_svc.open_connections import LimitedListener, OpenConnections
from svc_common.open_files import allow_connections
from svc_common.settings import SettingsError

logger = logging.getLogger(__name__)
_BACKLOG = 2048


class Drainable(Protocol):
    """What says of itself that it takes no more work."""

    is_draining: bool


class _Server(uvicorn.Server):
    """A server whose signals are handled here: uvicorn's own way ends the process by them."""

    def capture_signals(self) -> Any:
        return nullcontext()


def broken_framing(scope: Scope) -> str | None:
    """Return the rule that a request breaks if it gives the length of its body in two ways.

    Where a proxy in front goes by the other one, a body is the next caller's request.
    """
    names = {name for name, _ in scope["headers"]}
    if {b"content-length", b"transfer-encoding"} <= names:
        return "content-length: must not be given with transfer-encoding"
    return None


def http_config(
    app: ASGIApp,
    connections: OpenConnections,
    *,
    keep_alive_s: int,
    arrival_s: float,
    drain_s: float,
) -> uvicorn.Config:
    """Return how uvicorn serves the application.

    Args:
        app: What is served.
        connections: Those of its listener.
        keep_alive_s: An idle connection is closed after this.
        arrival_s: A request's head must arrive within this.
        drain_s: Running answers get this to finish.
    """
    return uvicorn.Config(
        app,
        loop="none",
        http=partial(  # type: ignore[arg-type]
            ImpatientConnection, arrival_s=arrival_s, connections=connections
        ),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,  # ours
        log_level="warning",  # starts and ends are told by us
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=max(1, round(drain_s)),
    )


def bind(listen: str, variable: str, connections: OpenConnections) -> socket.socket:
    """Return a socket that listens.

    Args:
        listen: host:port; port 0 for any.
        variable: The setting it comes from.
        connections: Those that are accepted here.

    Raises:
        SettingsError: It is no address of this machine, or in use.
    """
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        raise listen_error(variable, listen) from error
    # asyncio does this only for sockets made with the protocol's number; without it the body of an
    # answer waits 40 ms for the caller's acknowledgement of its headers. Connections inherit it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setblocking(False)
    return LimitedListener(listener, connections)


async def run_until_told(
    config: uvicorn.Config, listener: socket.socket, app: Drainable, **told: Any
) -> None:
    """Serve until SIGTERM or SIGINT and then let running answers finish; a second one ends them.

    Args:
        config: What is served, and how.
        listener: Where; it stays the caller's to close.
        app: Is told once no more requests are wanted.
        told: What the log says of the start, beside the address.
    """
    host, port = listener.getsockname()[:2]
    server = _Server(config)
    with _signals(server, app, config.timeout_graceful_shutdown or 0):
        logger.info("serving", extra={"address": f"{host}:{port}", **told})
        await server.serve([listener])
        logger.info("stopped")


def make_room(max_connections: int, max_requests: int, prefix: str) -> None:
    """Let the process have so many connections open, of which not all can be in work.

    Raises:
        SettingsError: All could, and probes would find no place.
    """
    if max_connections <= max_requests:
        rule = f"must be more than {prefix}MAX_REQUESTS={max_requests}"
        raise SettingsError(f"{prefix}MAX_CONNECTIONS: {rule}, got {max_connections}")
    allow_connections(f"{prefix}MAX_CONNECTIONS", max_connections)


def listen_error(variable: str, address: str) -> SettingsError:
    """Return the error of an address that cannot be listened on."""
    return SettingsError(f"{variable}: must be a free address of this machine, got {address}")


@contextmanager
def _signals(server: uvicorn.Server, app: Drainable, drain_s: float) -> Iterator[None]:
    def on_signal() -> None:
        if server.should_exit:
            server.force_exit = True
            return
        app.is_draining = True
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
