"""A span for each HTTP request, from its arrival until its last byte."""

from edge_svc.metrics import OTHER
from svc_common.trace_context import TraceContext
from svc_common.tracing import Span, Tracer, set_current_span

HTTP_ATTRIBUTES = {
    "http.request.method": "`GET`, `POST` or another known one; else `_OTHER`",
    "http.route": "the route; absent where the path is none",
    "http.response.status_code": "499: the caller hung up",
    "error.type": "the status, where it is 500 or more",
    "pad.request_id": "as in logs, and as the generator has it",
}
_METHODS = frozenset(
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"]
)
_FIRST_FAULT = 500


def begin_span(
    tracer: Tracer, method: str, route: str, request_id: str, parent: TraceContext | None
) -> Span:
    """Start the span of the request whose task this is, in its caller's trace if there is one."""
    known = method if method in _METHODS else "_OTHER"
    is_route = route != OTHER
    name = f"{'HTTP' if known == '_OTHER' else known}{f' {route}' if is_route else ''}"
    attributes = {"http.request.method": known, "pad.request_id": request_id}
    if is_route:
        attributes["http.route"] = route
    span = tracer.start(name, parent, attributes)
    set_current_span(span)
    return span


def end_span(span: Span, status: int) -> None:
    """End the span of a request that was answered with a status."""
    span.set({"http.response.status_code": status})
    is_fault = status >= _FIRST_FAULT
    if is_fault:
        span.set({"error.type": str(status)})
    span.end(is_error=is_fault)
