"""A span for each RPC of the methods that are worth one, from its arrival until its end."""

from collections.abc import Iterable, Mapping

import grpc

from svc_common.trace_context import read_trace_context
from svc_common.tracing import Attributes, Span, Tracer, set_current_span

RPC_ATTRIBUTES = {
    "rpc.system.name": "`grpc`",
    "rpc.method": "service and method",
    "rpc.response.status_code": "status, for example `OK`",
    "error.type": "the status, where it is the service's fault (as semantic conventions have it)",
    "pad.request_id": "as in logs and summaries",
}
# Those of a server's statuses that say that something is wrong with the server.
_FAULTS = frozenset(
    [
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    ]
)


class RpcSpans:
    """Begins spans at the boundary, and ends them there.

    Args:
        tracer: Starts them.
        methods: What is traced (`package.Service/Method`), with attributes of its own.
    """

    def __init__(self, tracer: Tracer, methods: Mapping[str, Attributes]) -> None:
        self._tracer = tracer
        self._methods = methods

    def begin(
        self, method: str, request_id: str, metadata: Iterable[tuple[str, str | bytes]]
    ) -> Span | None:
        """Start the span of the RPC whose task this is, in its caller's trace if there is one."""
        own = self._methods.get(method)
        if own is None:
            return None
        known = {"rpc.system.name": "grpc", "rpc.method": method, "pad.request_id": request_id}
        span = self._tracer.start(method, read_trace_context(metadata), {**known, **own})
        set_current_span(span)
        return span

    def end(self, span: Span, code: grpc.StatusCode) -> None:
        """End the span of an RPC that ended with a status."""
        is_fault = code in _FAULTS
        span.set({"rpc.response.status_code": code.name})
        if is_fault:
            span.set({"error.type": code.name})
        span.end(is_error=is_fault)
