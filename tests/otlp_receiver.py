"""A collector that speaks OTLP over gRPC, as real as its protocol, and what it was sent."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

WAIT_S = 60.0
_LIMIT = [("grpc.so_reuseport", 0)]  # messages of at most 4 MiB, as collectors have it


@dataclass(frozen=True)
class SentSpan:
    """A span as it came, with the name of its service."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    is_error: bool
    duration_s: float
    message: trace_pb2.Span


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps all spans, and the bytes they came in; answers unless `answers` is cleared."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.spans: list[SentSpan] = []
        self.requests: list[bytes] = []
        self.address = ""
        self._came = threading.Condition()

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.answers.wait(WAIT_S)
        with self._came:
            self.requests.append(request.SerializeToString())
            for group in request.resource_spans:
                service = _values(group.resource.attributes)["service.name"]
                for scope in group.scope_spans:
                    self.spans += [_span(service, span) for span in scope.spans]
            self._came.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def wait_for(self, wanted: Callable[[SentSpan], bool], count: int = 1) -> list[SentSpan]:
        """Return the spans that are wanted, once there are so many."""

        def found() -> list[SentSpan]:
            return [span for span in self.spans if wanted(span)]

        with self._came:
            is_there = self._came.wait_for(lambda: len(found()) >= count, WAIT_S)
            assert is_there, [(span.service, span.name) for span in self.spans]
            return found()

    def trace(self, trace_id: str, *names: str) -> dict[str, SentSpan]:
        """Return the spans of a trace by the names that are waited for, one each."""
        spans = {}
        for name in names:
            (spans[name],) = self.wait_for(lambda s, n=name: (s.trace_id, s.name) == (trace_id, n))
        return spans


@contextmanager
def receiving(
    credentials: grpc.ServerCredentials | None = None, host: str = "127.0.0.1"
) -> Iterator[Receiver]:
    """Yield a collector that listens."""
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(2), options=_LIMIT)
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    if credentials is None:
        port = server.add_insecure_port(f"{host}:0")
    else:
        port = server.add_secure_port(f"{host}:0", credentials)
    receiver.address = f"{host}:{port}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()


def _span(service: str, span: trace_pb2.Span) -> SentSpan:
    return SentSpan(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        _values(span.attributes),
        [(event.name, _values(event.attributes)) for event in span.events],
        span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        span,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)
