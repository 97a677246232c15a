"""Run a gRPC server from binding its address to the end of its drain."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import grpc
import prometheus_client
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from svc_common.callers import Identify, anonymous
from svc_common.health import Health
from svc_common.metrics import RpcMetrics
from svc_common.rpc_boundary import RpcBoundary
from svc_common.settings import SettingsError

logger = logging.getLogger(__name__)

MAX_PENDING_CALLS = 1 << 16
HEALTH_SERVICE = "grpc.health.v1.Health"
AddServicer = Callable[[grpc.aio.Server], None]


@dataclass(frozen=True)
class ServerOptions:
    """Where and how a server listens.

    Attributes:
        settings_prefix: `GENERATOR_` or `REWARD_`, for messages about the other options.
        listen: `host:port`, with port 0 for any free one.
        metrics_port: Port of the Prometheus endpoint on the same host; 0 for any free one.
        drain_s: Seconds that running calls get to finish after SIGTERM.
        max_message_bytes: Largest message that is read.
        credentials: TLS keys; none for plain text.
        identify: Finds out who calls, for each RPC.
        health_listen: `host:port` where probes, and nothing else, are answered in plain text;
            empty for nowhere but with the rest.
    """

    settings_prefix: str
    listen: str
    metrics_port: int
    drain_s: float
    max_message_bytes: int = 4 * 1024 * 1024
    credentials: grpc.ServerCredentials | None = None
    identify: Identify = anonymous
    health_listen: str = ""


async def serve(
    options: ServerOptions,
    health: Health,
    registry: CollectorRegistry,
    add_servicers: Sequence[AddServicer],
) -> None:
    """Serve until SIGTERM or SIGINT and then let running calls finish; a second signal ends them.

    The caller turns `health` to SERVING, before or after. Cancelling this ends all calls at once.

    Raises:
        SettingsError: An address cannot be listened on.
    """
    server = new_server(options, health, registry, add_servicers)
    address = bind(server, options)
    with _metrics_endpoint(options, registry) as metrics_port, _signals() as signals:
        await server.start()
        try:
            async with _health_endpoint(options, health) as health_address:
                logger.info(
                    "serving",
                    extra={
                        "address": address,
                        "metrics_port": metrics_port,
                        "health_address": health_address,
                    },
                )
                await signals.first.wait()
                logger.info("draining", extra={"drain_s": options.drain_s})
                await drain(server, health, options.drain_s, signals.second)
        finally:
            await server.stop(None)
            logger.info("stopped")


def new_server(
    options: ServerOptions,
    health: Health,
    registry: CollectorRegistry,
    add_servicers: Sequence[AddServicer],
) -> grpc.aio.Server:
    """Return a server with the RPC boundary, health and reflection; it listens nowhere yet."""
    server = grpc.aio.server(
        interceptors=[RpcBoundary(RpcMetrics(registry), options.identify)],
        options=[
            ("grpc.max_receive_message_length", options.max_message_bytes),
            # Else Linux lets a second process listen on a taken port, and calls go to either.
            ("grpc.so_reuseport", 0),
            # A generator's stream to a replica may be silent for hours: clients ping every 20 to
            # 30 s, and we ping too, to notice a caller whose machine is gone.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            # gRPC resets calls at random past 1,000 that Python has not taken yet, and the caller
            # reads CANCELLED; our own limits refuse by a status and say when to come again.
            ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
        ],
    )
    for add_servicer in add_servicers:
        add_servicer(server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = (*health.service_names, HEALTH_SERVICE, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    return server


def bind(server: grpc.aio.Server, options: ServerOptions) -> str:
    """Listen on `options.listen` and return the address, with the port that was found for 0.

    Raises:
        SettingsError: The address is taken or not this machine's.
    """
    try:
        if options.credentials is None:
            port = server.add_insecure_port(options.listen)
        else:
            port = server.add_secure_port(options.listen, options.credentials)
    except RuntimeError as error:
        raise _listen_error(options, "LISTEN", options.listen) from error
    return f"{options.listen.rpartition(':')[0]}:{port}"


async def drain(
    server: grpc.aio.Server, health: Health, drain_s: float, hurry: asyncio.Event
) -> None:
    """Refuse new calls, and return when the running ones ended, by themselves or by force.

    Args:
        server: The server to stop.
        health: Told first, so that balancers and long streams know.
        drain_s: Seconds until calls are ended by force.
        hurry: Ends them earlier.
    """
    health.drain()
    stopping = asyncio.ensure_future(server.stop(drain_s))
    hurrying = asyncio.ensure_future(hurry.wait())
    try:
        await asyncio.wait((stopping, hurrying), return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await server.stop(None)
        await stopping
    finally:
        stopping.cancel()
        hurrying.cancel()


@dataclass(frozen=True)
class _Signals:
    first: asyncio.Event
    second: asyncio.Event


@contextmanager
def _signals() -> Iterator[_Signals]:
    """Turn the first and the second SIGTERM or SIGINT into events."""
    signals = _Signals(asyncio.Event(), asyncio.Event())

    def on_signal() -> None:
        (signals.second if signals.first.is_set() else signals.first).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield signals
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextmanager
def _metrics_endpoint(options: ServerOptions, registry: CollectorRegistry) -> Iterator[int]:
    """Offer the registry over HTTP, on a thread of its own, and yield the port."""
    host = options.listen.rpartition(":")[0].strip("[]")
    try:
        endpoint, thread = prometheus_client.start_http_server(options.metrics_port, host, registry)
    except OSError as error:
        taken = f"{host}:{options.metrics_port}"
        raise _listen_error(options, "METRICS_PORT", taken) from error
    try:
        yield endpoint.server_port
    finally:
        endpoint.shutdown()
        endpoint.server_close()
        thread.join()


@asynccontextmanager
async def _health_endpoint(options: ServerOptions, health: Health) -> AsyncIterator[str]:
    """Answer probes on a port of their own, which ask for neither keys nor tokens.

    Yields the address; empty if there is none.
    """
    if not options.health_listen:
        yield ""
        return
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)], maximum_concurrent_rpcs=64)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    try:
        port = server.add_insecure_port(options.health_listen)
    except RuntimeError as error:
        raise _listen_error(options, "HEALTH_LISTEN", options.health_listen) from error
    await server.start()
    try:
        yield f"{options.health_listen.rpartition(':')[0]}:{port}"
    finally:
        await server.stop(None)


def _listen_error(options: ServerOptions, setting: str, address: str) -> SettingsError:
    return SettingsError(
        f"{options.settings_prefix}{setting}: must be a free address of this machine, got {address}"
    )
