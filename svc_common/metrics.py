"""Metrics that both services have, the buckets they share, and the registry of a process."""

import platform

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

# One decode step and its phases. A reward round trip takes 0.3 ms, so the first bucket is below it.
STEP_BUCKETS_S = (
    *(0.0001, 0.0002, 0.0003, 0.0005, 0.00075),
    *(0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5),
)
# Between two tokens of one answer, as its reader sees them.
TOKEN_BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0),
)
# From arrival to the first token, and time spent in a queue.
FIRST_TOKEN_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0),
)
# A whole RPC: a profile read takes about a millisecond, a long answer minutes.
RPC_BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 0.8),
    *(1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0),
)
# Tokens of a prompt or an answer.
TOKEN_COUNT_BUCKETS = tuple(float(digit * 10**power) for power in range(5) for digit in (1, 2, 5))
# Rows of a batch.
BATCH_BUCKETS = tuple(float(2**power) for power in range(11))


def new_registry(service: str, version: str) -> CollectorRegistry:
    """Return a registry with the process's own metrics and `pad_build_info`.

    Args:
        service: `generator` or `reward`.
        version: Version of this software.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    Gauge(
        "pad_build_info",
        "Always 1; its labels say what is running.",
        ["service", "version", "python"],
        registry=registry,
    ).labels(service, version, platform.python_version()).set(1)
    return registry


class RpcMetrics:
    """Counts and times RPCs.

    `method` is `package.Service/Method` of a known method, so the label sets stay small.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ended = Counter(
            "pad_rpc_total", "RPCs that ended.", ["method", "code"], registry=registry
        )
        self._duration = Histogram(
            "pad_rpc_duration_seconds",
            "From the arrival of an RPC until its end.",
            ["method"],
            buckets=RPC_BUCKETS_S,
            registry=registry,
        )

    def observe(self, method: str, code: str, duration_s: float) -> None:
        """Count one RPC that ended with status `code` (`OK`, `NOT_FOUND`, ...)."""
        self._ended.labels(method, code).inc()
        self._duration.labels(method).observe(duration_s)


class TraceMetrics:
    """Counts spans; there only where traces are wanted."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._spans = Counter(
            "pad_trace_spans_total",
            "Where traces are wanted: spans that ended, and of these what the collector took"
            " (exported) or did not take (failed). The rest waits, or was dropped as too much did.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("ended", "exported", "failed"):
            self._spans.labels(outcome)

    def ended(self) -> None:
        """Count a span that was recorded."""
        self._spans.labels("ended").inc()

    def exported(self, num_spans: int, *, is_failure: bool) -> None:
        """Count spans that were sent to the collector."""
        self._spans.labels("failed" if is_failure else "exported").inc(num_spans)
