"""Where and how a gRPC server listens, and what gRPC is told of it."""

from dataclasses import dataclass

import grpc

from svc_common.callers import Identify, anonymous
from svc_common.rpc_spans import RpcSpans

MAX_PENDING_CALLS = 1 << 16
HANDSHAKE_MS = 10_000  # a connection that says nothing until then is closed


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
        max_connection_idle_s: Seconds after which a connection without a call under way is told to
            go. 0 is never.
        max_connections: That may be open at once; one more is closed as soon as it is made. 0 is
            no limit.
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
    max_connection_idle_s: float = 0.0
    max_connections: int = 0
    spans: RpcSpans | None = None


def channel_options(options: ServerOptions) -> list[tuple[str, int]]:
    """Return the options of a server for all of its services."""
    found = [
        ("grpc.max_receive_message_length", options.max_message_bytes),
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
    ]
    if options.max_connection_age_s:
        # Without a grace of its own gRPC waits for the calls under way as long as they take.
        found.append(("grpc.max_connection_age_ms", round(options.max_connection_age_s * 1000)))
    return found + connection_options(options)


def connection_options(options: ServerOptions) -> list[tuple[str, int]]:
    """Return those of them that bound what connections cost, on a port for probes too."""
    found = [
        # Else Linux lets a second process listen on a taken port, and calls go to either.
        ("grpc.so_reuseport", 0),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ]
    if options.max_connection_idle_s:
        found.append(("grpc.max_connection_idle_ms", round(options.max_connection_idle_s * 1000)))
    if options.max_connections:
        found.append(("grpc.max_allowed_incoming_connections", options.max_connections))
    return found
