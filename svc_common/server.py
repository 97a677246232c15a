"""Run a gRPC server from binding its address to the end of its drain."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from svc_common.health import MAX_WATCHERS, Health
from svc_common.lifetime import stop_signals
from svc_common.metrics import RpcMetrics
from svc_common.metrics_endpoint import start_metrics_endpoint
from svc_common.open_files import allow_connections
from svc_common.rpc_boundary import RpcBoundary
from svc_common.running_calls import HEALTH_SERVICE, CallLimits, RunningCalls
from svc_common.server_options import ServerOptions, channel_options, connection_options
from svc_common.settings import SettingsError

logger = logging.getLogger(__name__)

ENDING_S = 1.0  # for the status of calls that are ended to reach their callers
# gRPC resets calls that arrive in the moment it stops, and their callers read CANCELLED. So they
# are refused for a while before, by a status that asks them to wait for longer than this.
REFUSAL_S = 0.25

AddServicer = Callable[[grpc.aio.Server], None]


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
    allow_connections(f"{options.settings_prefix}MAX_CONNECTIONS", options.max_connections)
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
        options=channel_options(options),
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
        options=connection_options(options), maximum_concurrent_rpcs=2 * MAX_WATCHERS
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
