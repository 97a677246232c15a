"""Where every HTTP request begins and ends: its id, its place among the others, its record."""

import logging
import re
import time
import uuid

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_svc.errors import ApiError, overloaded
from edge_svc.hang_up import CALLER_GONE, CallerGoneError
from edge_svc.http_server import broken_framing
from edge_svc.http_spans import begin_span, end_span
from edge_svc.metrics import EdgeMetrics, route_of
from svc_common.rpc_boundary import set_request_id
from svc_common.trace_context import read_trace_context
from svc_common.tracing import Span, Tracer

logger = logging.getLogger(__name__)

REQUEST_ID_HEADER = "x-request-id"
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PROBES = ("/healthz", "/readyz")  # never refused, and not worth a line each


class Boundary:
    """Wraps the application: knows nothing of what is asked."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: EdgeMetrics,
        max_requests: int,
        tracer: Tracer | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._max_requests = max_requests
        self._tracer = tracer
        self._num_in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = route_of(scope["path"])
        request = Request(scope)
        request_id = _request_id(request)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        # In this request's own task: lines of the HTTP server about it, too, have the id.
        set_request_id(request_id)
        state["trace"] = trace = read_trace_context(request.headers.items())
        span: Span | None = None
        if self._tracer is not None and route not in _PROBES:
            span = begin_span(self._tracer, scope["method"], route, request_id, trace)
            state["trace"] = span.context or trace
        started, status = time.monotonic(), 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        self._count(1)
        try:
            error = self._refusal(scope, route)
            if error is None:
                await self._app(scope, receive, send_with_id)
            else:
                refusal = JSONResponse(error.body(), error.status, error.headers())
                await refusal(scope, receive, send_with_id)
        except CallerGoneError:
            status = CALLER_GONE
        finally:
            self._count(-1)
            duration_s = time.monotonic() - started
            self._metrics.ended(route, status, duration_s)
            logger.log(
                logging.DEBUG if route in _PROBES else logging.INFO,
                "request ended",
                extra={
                    "method": scope["method"],
                    "route": route,
                    "status": status,
                    "duration_s": round(duration_s, 6),
                },
            )
            if span is not None:
                end_span(span, status)

    def _refusal(self, scope: Scope, route: str) -> ApiError | None:
        """Return why a request is refused, whatever it asks for."""
        if self._num_in_work > self._max_requests and route not in _PROBES:
            return overloaded(f"requests: at most {self._max_requests} are taken at once")
        if rule := broken_framing(scope):
            return ApiError(400, rule, code="invalid_request")
        return None

    def _count(self, step: int) -> None:
        self._num_in_work += step
        self._metrics.in_work.inc(step)


def _request_id(request: Request) -> str:
    """Return the caller's request id if it is a short token, else a new one."""
    given = request.headers.get(REQUEST_ID_HEADER, "")
    return given if _SANE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
