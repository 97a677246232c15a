"""Where every RPC begins and ends: its request id, its measurements, and errors as statuses."""

import asyncio
import logging
import math
import re
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from svc_common.callers import NOBODY, Caller, Identify, set_caller
from svc_common.errors import ServiceError
from svc_common.metrics import RpcMetrics
from svc_common.reader_watch import ReaderWatch
from svc_common.rpc_requests import CheckedRequests, deserializer, receive_one
from svc_common.rpc_spans import RpcSpans
from svc_common.running_calls import RunningCalls, is_health_probe
from svc_common.tracing import Span

logger = logging.getLogger(__name__)

REQUEST_ID_KEY = "x-request-id"
_REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
PROBE_S = 1.0  # a probe's request must arrive within this
# The caller's timer may end a call a little before ours does; it then arrives as a hang-up.
_DEADLINE_TOLERANCE_S = 0.02
# A status travels in headers, twice if it has details. gRPC drops those of more than 8 KiB, and
# writes a byte that is not ASCII as three.
_MAX_MESSAGE_BYTES = 1000

# Requests and responses are of any message type here.
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Servicer: TypeAlias = Callable[[Any, _Context], Awaitable[Any] | AsyncGenerator[Any, None]]
_Behaviour: TypeAlias = Callable[[Any, _Context], Awaitable[Any]]
_Found: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable[_Found]]


def current_request_id() -> str:
    """Return the id of the RPC that is being served, or an empty string outside of one."""
    return _REQUEST_ID.get()


def set_request_id(request_id: str) -> None:
    """Say which request the running task serves, for the lines it logs."""
    _REQUEST_ID.set(request_id)


@dataclass
class _Outcome:
    """How an RPC ends: `message` is None where it succeeds, or ends otherwise than by a status.

    It holds no exception: one that is known when `abort` raises its own would be kept with it,
    and with all frames that it passed, requests included, until the garbage collector comes.
    """

    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str | None = None
    retry_after_s: float | None = None
    caller: Caller = NOBODY
    span: Span | None = None

    def fail(self, code: grpc.StatusCode, message: str, retry_after_s: float | None) -> None:
        self.code, self.message, self.retry_after_s = code, message, retry_after_s


class RpcBoundary(grpc.aio.ServerInterceptor):
    """Wraps the handlers of all RPCs of a server, whichever side streams.

    Servicers are coroutines or async generators; they raise `ServiceError` and know no statuses.
    A generator is closed before its RPC is counted as ended. A caller is identified, and an RPC
    that is one too many refused, before a message of it is read.
    """

    def __init__(
        self,
        metrics: RpcMetrics,
        identify: Identify,
        calls: RunningCalls,
        max_stall_s: float,
        spans: RpcSpans | None = None,
    ) -> None:
        self._metrics = metrics
        self._spans = spans
        self._identify = identify
        self._calls = calls
        self._max_stall_s = max_stall_s
        self._wrapped: dict[str, tuple[_Handler, _Handler]] = {}  # by method, with what is in it

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Found:
        handler = await continuation(handler_call_details)
        if handler is None:  # gRPC answers UNIMPLEMENTED
            return None
        method = handler_call_details.method.removeprefix("/")
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = handler, self._wrap(handler, method)
        return known[1]

    def _wrap(self, handler: _Handler, method: str) -> _Handler:
        # gRPC reads the message of a unary request before anybody is asked who sent it, and waits
        # for it as long as its sender likes. So all requests are streams here.
        new_handler: Any = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        servicer: Any = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )
        wrapped: _Handler = new_handler(
            self._guard(servicer, method, handler.request_streaming),
            request_deserializer=deserializer(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )
        return wrapped

    def _guard(self, servicer: _Servicer, method: str, is_request_streaming: bool) -> _Behaviour:
        # Places of probes are few and open to strangers: one without its request is soon free.
        request_s = min(self._max_stall_s, PROBE_S if is_health_probe(method) else math.inf)

        async def run(_requests: Any, context: _Context) -> Any:
            _REQUEST_ID.set(_request_id(context))  # in this RPC's own task: nothing to reset
            context.set_trailing_metadata(((REQUEST_ID_KEY, current_request_id()),))
            started = time.monotonic()
            outcome = _Outcome()
            try:
                response = await attempt(context, outcome)
                if outcome.message is not None:
                    await _abort(context, outcome.code, outcome.message, outcome.retry_after_s)
                return response
            finally:
                self._end(method, outcome.code, time.monotonic() - started, outcome.caller)
                if outcome.span is not None and self._spans is not None:
                    self._spans.end(outcome.span, outcome.code)
                # gRPC keeps the exception of `abort`, which knows this frame: what the frame knows
                # would stay until the garbage collector comes.
                del context, _requests

        async def attempt(context: _Context, outcome: _Outcome) -> Any:
            try:
                with self._calls.serving(method, context.peer()):
                    outcome.caller = self._identify(context, method)
                    set_caller(outcome.caller)
                    # Now: a stranger's word that a call be traced is worth nothing.
                    outcome.span = self._begin_span(method, context)
                    received: Any = (
                        CheckedRequests(context)
                        if is_request_streaming
                        else await receive_one(context, request_s)
                    )
                    response = await _respond(servicer, received, context, self._max_stall_s)
                if is_request_streaming:
                    # A hang-up ends the requests first and cancels us one turn of the loop later.
                    await asyncio.sleep(0)
            except ServiceError as error:
                outcome.fail(error.code, str(error), error.retry_after_s)
            except grpc.aio.AbortError:  # from gRPC's own services, such as reflection
                outcome.code = grpc.StatusCode(context.code())
                raise
            except grpc.aio.InternalError as error:  # the caller hung up while we sent
                outcome.code = _cancel_code(context)
                raise asyncio.CancelledError from error
            except asyncio.CancelledError:
                if _is_cancelled():
                    outcome.code = _cancel_code(context)
                    raise  # returning normally leaks native memory, grpc/grpc#43360
                _fail_internally(outcome, method)
            except Exception:
                _fail_internally(outcome, method)
            else:
                return response
            return None

        return run

    def _begin_span(self, method: str, context: _Context) -> Span | None:
        if self._spans is None:
            return None
        metadata: Any = context.invocation_metadata() or ()
        return self._spans.begin(method, current_request_id(), metadata)

    def _end(self, method: str, code: grpc.StatusCode, duration_s: float, caller: Caller) -> None:
        self._metrics.observe(method, code.name, duration_s)
        # Probes come every few seconds for ever; in a flood of refusals, which metrics count by
        # reason, their lines would cost half of what refusing costs.
        is_quiet = method.startswith("grpc.health.") or code is grpc.StatusCode.RESOURCE_EXHAUSTED
        level = logging.DEBUG if is_quiet else logging.INFO
        values = {"method": method, "code": code.name, "duration_s": round(duration_s, 6)}
        if caller.name:  # shows which tokens are still in use
            values |= {"tenant": caller.tenant, "token": caller.name}
        logger.log(level, "rpc ended", extra=values)


async def _respond(servicer: _Servicer, request: Any, context: _Context, max_stall_s: float) -> Any:
    """Carry out a servicer's call; a generator's messages are written here.

    Left to gRPC, a cancelled generator would be closed by the garbage collector, some time later.
    """
    result = servicer(request, context)
    if not isinstance(result, AsyncGenerator):
        return await result
    watch = ReaderWatch(context.write, max_stall_s)
    with watch.watching():
        async with aclosing(result) as messages:
            async for message in messages:
                await watch.write(message)
    return None


def _request_id(context: _Context) -> str:
    """Return the caller's request id if it is a short token, else a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _SANE_REQUEST_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex


def _is_cancelled() -> bool:
    """Tell a cancelled RPC from one whose servicer awaited something else that was cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _cancel_code(context: _Context) -> grpc.StatusCode:
    remaining_s: float | None = context.time_remaining()  # None if the call has no deadline
    if remaining_s is not None and remaining_s <= _DEADLINE_TOLERANCE_S:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED


def _fail_internally(outcome: _Outcome, method: str) -> None:
    """Note a bug of ours, whose exception is being handled."""
    logger.exception("rpc failed", extra={"method": method})
    outcome.fail(grpc.StatusCode.INTERNAL, "internal error", None)


async def _abort(
    context: _Context, code: grpc.StatusCode, message: str, retry_after_s: float | None
) -> NoReturn:
    """End the RPC with a status, and say when to try again both to programs and to gRPC itself."""
    message = _cut(message)
    trailing_metadata: tuple[tuple[str, str | bytes], ...] = (
        (REQUEST_ID_KEY, current_request_id()),
    )
    if retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(retry_after_s * 1e9))
        retry_info = any_pb2.Any()
        retry_info.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(code=code.value[0], message=message, details=[retry_info])
        pushback = ("grpc-retry-pushback-ms", str(round(retry_after_s * 1000)))
        rich = rpc_status.to_status(status).trailing_metadata
        trailing_metadata = (*trailing_metadata, pushback, *rich)
    try:
        await context.abort(code, message, trailing_metadata)
    except grpc.aio.InternalError as error:  # the caller hung up: gRPC would log it as our bug
        raise asyncio.CancelledError from error
    finally:
        del context  # as in `run`


def _cut(message: str) -> str:
    """Return a message that fits into a status; one that was longer ends in dots."""
    data = message.encode()
    if len(data) <= _MAX_MESSAGE_BYTES:
        return message
    return data[: _MAX_MESSAGE_BYTES - 3].decode(errors="ignore") + "..."
