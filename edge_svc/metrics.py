"""Metrics of the edge; label sets are the routes, and statuses."""

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from svc_common.metrics import FIRST_TOKEN_BUCKETS_S, RPC_BUCKETS_S

ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/healthz", "/readyz")
OTHER = "other"


def route_of(path: str) -> str:
    """Return the label of a path: a known route, else `other`."""
    if path.startswith("/v1/models/"):
        return "/v1/models"
    return path if path in ROUTES else OTHER


class EdgeMetrics:
    """Counts and times HTTP requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ended = Counter(
            "pad_edge_requests_total",
            "HTTP requests that ended; status 499: the caller hung up.",
            ["route", "status"],
            registry=registry,
        )
        self._duration = Histogram(
            "pad_edge_request_duration_seconds",
            "From the arrival of an HTTP request until its last byte.",
            ["route"],
            buckets=RPC_BUCKETS_S,
            registry=registry,
        )
        self._first = Histogram(
            "pad_edge_time_to_first_token_seconds",
            "From the arrival of an HTTP request until the generator's first token.",
            ["route"],
            buckets=FIRST_TOKEN_BUCKETS_S,
            registry=registry,
        )
        self._broken = Counter(
            "pad_edge_broken_streams_total",
            "Streams that ended with an error after their first event.",
            registry=registry,
        )
        self._crowded = Counter(
            "pad_edge_crowded_connections_total",
            "Connections closed as EDGE_MAX_CONNECTIONS were open: idle ones for new ones, and new"
            " ones where none was idle.",
            ["which"],
            registry=registry,
        )
        for which in ("idle", "new"):
            self._crowded.labels(which)
        self.in_work = Gauge(
            "pad_edge_requests_in_work", "HTTP requests in work.", registry=registry
        )

    def ended(self, route: str, status: int, duration_s: float) -> None:
        """Count one request."""
        self._ended.labels(route, str(status)).inc()
        self._duration.labels(route).observe(duration_s)

    def first_token(self, route: str, after_s: float) -> None:
        """Count the first token of an answer."""
        self._first.labels(route).observe(after_s)

    def broken_stream(self) -> None:
        """Count a stream that ended with an error."""
        self._broken.inc()

    def crowded_out(self, which: Literal["idle", "new"]) -> None:
        """Count a connection for which there was no place any more."""
        self._crowded.labels(which).inc()
