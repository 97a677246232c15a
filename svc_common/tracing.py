"""Traces as the services see them. OpenTelemetry is behind `otel.py`, and optional.

Without an endpoint nothing of it is imported, and nothing is done: there is no tracer.
"""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Protocol, TypeAlias

import grpc
from prometheus_client import CollectorRegistry

from svc_common.addresses import is_host_port
from svc_common.settings import SettingsError
from svc_common.tls import TlsFiles, client_credentials
from svc_common.trace_context import TraceContext

MAX_EVENTS = 256  # of a span: what is exported together must fit in 4 MiB, what collectors take

AttributeValue: TypeAlias = str | bool | int | float | Sequence[str]
Attributes: TypeAlias = Mapping[str, AttributeValue]


class Span(Protocol):
    """A piece of work in a trace, from when it was started until its end."""

    @property
    def is_recording(self) -> bool:
        """Whether anybody will see it; else what it is told is lost."""

    @property
    def trace_id(self) -> str:
        """The trace it belongs to; empty where nobody could find that."""

    @property
    def context(self) -> TraceContext | None:
        """What a call made in its course carries."""

    def rename(self, name: str) -> None: ...

    def set(self, attributes: Attributes) -> None: ...

    def add_event(self, name: str, attributes: Attributes) -> None:
        """Note what happened just now; of more than `MAX_EVENTS` the first are lost."""

    def end(self, *, is_error: bool = False) -> None: ...


class Tracer(Protocol):
    """Starts spans, and sends those that ended to a collector, behind everybody's back."""

    def start(self, name: str, parent: TraceContext | None, attributes: Attributes) -> Span:
        """Start a span on behalf of a caller, whose trace goes on if there is one."""

    def close(self) -> None:
        """Send what has ended, for a moment at most; it takes nothing more."""


class TracingSettings(Protocol):
    """What all services' settings say of traces."""

    @property
    def traces_endpoint(self) -> str: ...

    @property
    def traces_ca_file(self) -> str: ...

    @property
    def traces_sample_ratio(self) -> float: ...


@dataclass(frozen=True)
class TracerOptions:
    """Whose spans go where.

    Attributes:
        service: Name of the service.
        version: Of this software.
        endpoint: `host:port` of a collector that speaks OTLP over gRPC.
        credentials: Keys for TLS; None for plain text.
        sample_ratio: Share of the traces that begin here that is recorded; of others, whoever
            began them decides.
    """

    service: str
    version: str
    endpoint: str
    credentials: grpc.ChannelCredentials | None
    sample_ratio: float


_SPAN: ContextVar[Span | None] = ContextVar("span", default=None)


def current_span() -> Span | None:
    """Return the span of the request that is being served, if it has one."""
    return _SPAN.get()


def set_current_span(span: Span) -> None:
    """Say which span the request has whose task this is."""
    _SPAN.set(span)


def current_trace_id() -> str:
    """Return the trace of the request that is being served, or an empty string."""
    span = _SPAN.get()
    return "" if span is None else span.trace_id


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Return what a gRPC call carries that is made for the request that is being served."""
    span = _SPAN.get()
    context = None if span is None else span.context
    return () if context is None else context.metadata


def check_tracing(settings: TracingSettings, prefix: str) -> None:
    """Find out, before anything is loaded, whether traces can be had where they are wanted.

    Raises:
        SettingsError: a setting cannot be used, or OpenTelemetry is not installed.
    """
    if settings.traces_endpoint:
        _options(settings, prefix, "", "")
        _otel(prefix)
    elif settings.traces_ca_file:
        raise SettingsError(f"{prefix}TRACES_ENDPOINT: must be set where {prefix}TRACES_CA_FILE is")


def open_tracer(
    settings: TracingSettings, prefix: str, service: str, version: str, registry: CollectorRegistry
) -> Tracer | None:
    """Return what starts the spans of a service, None where no traces are wanted.

    Raises:
        SettingsError: as `check_tracing`.
    """
    if not settings.traces_endpoint:
        return None
    options = _options(settings, prefix, service, version)
    tracer: Tracer = _otel(prefix).OtelTracer(options, registry)
    return tracer


def _options(settings: TracingSettings, prefix: str, service: str, version: str) -> TracerOptions:
    endpoint = settings.traces_endpoint
    if not is_host_port(endpoint):
        rule = "must be host:port of a collector that speaks OTLP over gRPC"
        raise SettingsError(f"{prefix}TRACES_ENDPOINT: {rule}, got {endpoint!r}")
    keys = client_credentials(
        TlsFiles(f"{prefix}TRACES_", cert="", key="", ca=settings.traces_ca_file)
    )
    credentials = None if keys is None else keys()
    return TracerOptions(service, version, endpoint, credentials, settings.traces_sample_ratio)


def _otel(prefix: str) -> ModuleType:
    try:
        return import_module("svc_common.otel")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        rule = "needs OpenTelemetry: pip install ./client '.[tracing]' in a checkout"
        raise SettingsError(f"{prefix}TRACES_ENDPOINT: {rule}, {error.name} is missing") from error
