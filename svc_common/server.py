"""Run a gRPC server from binding its address to the end of its drain."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from svc_common.callers import Identify, anonymous
from svc_common.health import MAX_WATCHERS, Health
from svc_common.lifetime import stop_signals
from svc_common.metrics import RpcMetrics
from svc_common.metrics_endpoint import start_metrics_endpoint
from svc_common.rpc_boundary import RpcBoundary
from svc_common.rpc_spans import RpcSpans
from svc_common.running_calls import HEALTH_SERVICE, CallLimits, RunningCalls
from svc_common.settings import SettingsError

logger = logging.getLogger(__name__)

MAX_PENDING_CALLS = 1 << 16
HANDSHAKE_MS = 10_000  # a connection that says nothing until then is closed
ENDING_S = 1.0  # for the status of calls that are ended to reach their callers
# gRPC resets calls that arrive in the moment it stops, and their callers read CANCELLED. So they
# are refused for a while before, by a status that asks them to wait for longer than this.
REFUSAL_S = 0.25

AddServicer = Callable[[grpc.aio.Server], None]


@dataclass(frozen=True)
class ServerOptions:
    """Where and how a server listens.

    Attributes:
        settings_prefix: `GENERATOR_` or `REWARD_`, for messages about the other options.
        listen: `host:port`, with port 0 for any free one.
        metrics_port: Port of the Prometheus endpoint on the same host; 0 for any free one.
        drain_s: Seconds that running calls get to finish once new ones are refused.
        max_message_bytes: Largest message that is read.
        credentials: TLS keys; none for plain text.
        identify: Finds out who calls, for each RPC.
        drain_delay_s: Seconds from SIGTERM, when health turns, until new calls are refused.
        max_stall_s: Seconds after which a stream ends whose reader takes nothing, and a call whose
            request does not arrive.
        health_listen: `host:port` where probes, and nothing else, are answered in plain text;
            empty for nowhere but with the rest.
        max_calls: RPCs that may run at once, probes aside; 0 is no limit.
        max_connection_calls: RPCs that one connection may have under way; 0 is no limit.
        max_connection_age_s: Seconds after which a connection is told to take no more calls, give
            or take a tenth; those under way go on. 0 is never.
        spans: Traces RPCs; None: they are not traced.
    """

    settings_prefix: str
    listen: str
    metrics_port: int
    drain_s: float
    max_message_bytes: int = 4 * 1024 * 1024
    credentials: grpc.ServerCredentials | None = None
    identify: Identify = anonymous
    drain_delay_s: float = 0.0
    max_stall_s: float = 60.0
    health_listen: str = ""
    max_calls: int = 0
    max_connection_calls: int = 0
    max_connection_age_s: float = 0.0
    spans: RpcSpans | None = None


async def serve(
    options: ServerOptions,
    health: Health,
    registry: CollectorRegistry,
    add_servicers: Sequence[AddServicer],
) -> None:
    """Serve until SIGTERM or SIGINT and then let running calls finish; a second signal ends them.

    Health is NOT_SERVING first. New calls are still taken for `drain_delay_s`, as whoever balances
    needs a moment to see that. Then they are refused as UNAVAILABLE, connections are told to go
    elsewhere, and running calls get `drain_s`. What runs still is then ended as UNAVAILABLE.

    The caller turns `health` to SERVING, before or after. Cancelling this ends all calls at once.

    Raises:
        SettingsError: An address cannot be listened on.
    """
    calls = new_calls(options)
    server = new_server(options, health, registry, add_servicers, calls)
    # What was loaded stays: a full collection that looks at it holds up everybody for 0.1 s.
    gc.collect()
    gc.freeze()
    address = bind(server, options)
    with _metrics_endpoint(options, registry) as metrics_port, stop_signals() as signals:
        await server.start()
        try:
            async with _health_endpoint(options, health) as health_address:
                places = {"metrics_port": metrics_port, "health_address": health_address}
                logger.info("serving", extra={"address": address, **places})
                await signals.first.wait()
                values = {"drain_s": options.drain_s, "num_calls": len(calls)}
                logger.info("draining", extra=values)
                health.drain()
                await _pause(options.drain_delay_s, signals.second)
                await drain(server, calls, options.drain_s, signals.second)
        finally:
            await server.stop(None)
            logger.info("stopped")


def new_calls(options: ServerOptions) -> RunningCalls:
    """Return the count of a server's RPCs."""
    limits = (options.max_calls, options.max_connection_calls, options.settings_prefix)
    return RunningCalls(CallLimits(*limits))


def new_server(
    options: ServerOptions,
    health: Health,
    registry: CollectorRegistry,
    add_servicers: Sequence[AddServicer],
    calls: RunningCalls | None = None,
) -> grpc.aio.Server:
    """Return a server with the RPC boundary, health and reflection; it listens nowhere yet.

    Args:
        options: How it listens.
        health: Its answers to probes.
        registry: Of the metrics of its RPCs.
        add_servicers: Add its services.
        calls: Keeps count of its RPCs, for `drain`.
    """
    calls = new_calls(options) if calls is None else calls  # it is falsy while empty
    server = grpc.aio.server(
        interceptors=[
            RpcBoundary(
                RpcMetrics(registry), options.identify, calls, options.max_stall_s, options.spans
            )
        ],
        options=_channel_options(options),
    )
    unregistered: Any = _Unregistered(server)
    for add_servicer in add_servicers:
        add_servicer(unregistered)
    health_pb2_grpc.add_HealthServicer_to_server(health, unregistered)
    names = (*health.service_names, HEALTH_SERVICE, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    return server


class _Unregistered:
    """Takes the handlers of services without registering their methods.

    For each call that comes grpc.aio (1.85) begins to wait anew for the next of every method that
    is registered: with ten of them that is a fifth of what a refused call costs.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, *_: object) -> None:
        """Do without: generic handlers find the same methods."""


def _channel_options(options: ServerOptions) -> list[tuple[str, int]]:
    found = [
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
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ]
    if options.max_connection_age_s:
        # Without a grace of its own gRPC waits for the calls under way as long as they take.
        found.append(("grpc.max_connection_age_ms", round(options.max_connection_age_s * 1000)))
    return found


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
    server: grpc.aio.Server, calls: RunningCalls, drain_s: float, hurry: asyncio.Event
) -> None:
    """Refuse new calls, and return when the running ones ended, by themselves or by force.

    Args:
        server: The server to stop.
        calls: What runs on it.
        drain_s: Seconds until calls are ended by force.
        hurry: Ends them earlier.
    """
    calls.refuse()
    await _pause(min(REFUSAL_S, drain_s), hurry)
    stopping = asyncio.ensure_future(server.stop(drain_s + 2 * ENDING_S))
    hurrying = asyncio.ensure_future(hurry.wait())
    try:
        ends = (stopping, hurrying)
        await asyncio.wait(ends, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            rule = "had to end at once" if hurry.is_set() else f"gave its calls {drain_s:g} s"
            num_ended = calls.end(f"server: {rule} and stopped before the answer was complete")
            logger.warning("calls ended before they were complete", extra={"num_calls": num_ended})
            await asyncio.wait((stopping,), timeout=ENDING_S)
            await server.stop(None)  # callers who do not read
        await stopping
    finally:
        stopping.cancel()
        hurrying.cancel()


async def _pause(seconds: float, hurry: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await hurry.wait()


@contextmanager
def _metrics_endpoint(options: ServerOptions, registry: CollectorRegistry) -> Iterator[int]:
    """Offer the registry over HTTP, on a thread of its own, and yield the port."""
    host = options.listen.rpartition(":")[0].strip("[]")
    try:
        endpoint, thread = start_metrics_endpoint(options.metrics_port, host, registry)
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
    server = grpc.aio.server(
        options=[("grpc.so_reuseport", 0)], maximum_concurrent_rpcs=2 * MAX_WATCHERS
    )
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
