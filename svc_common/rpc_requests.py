"""The requests of an RPC as they arrive: in time, and such that they can be read."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from svc_common.errors import InvalidRequestError, StalledSenderError
from svc_common.message_fields import MAX_FIELDS, has_too_many_fields

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Deserialize: TypeAlias = Callable[[bytes], Any]

# A hang-up ends the requests first, and cancels us a moment later; who sends none can wait for it.
HANG_UP_S = 0.05


@dataclass(frozen=True)
class _Malformed:
    """Stands for a request that could not be read; gRPC itself would call that our bug."""

    rule: str


def deserializer(deserialize: _Deserialize | None) -> _Deserialize | None:
    """Return a method's deserializer, which gives `_Malformed` for what it cannot read.

    Nor does it read what is of too many parts; see `message_fields`.
    """
    if deserialize is None:
        return None
    # Generated code gives a class method of the message.
    kind = getattr(getattr(deserialize, "__self__", None), "DESCRIPTOR", None)

    def read(data: bytes) -> Any:
        if kind is not None and has_too_many_fields(data, kind):
            rule = f"must have at most {MAX_FIELDS} fields, those of messages in it included"
            return _Malformed(f"request: {rule}, got more in {len(data)} bytes")
        try:
            return deserialize(data)
        except DecodeError:
            rule = "must be a message of this method, with texts in UTF-8"
            return _Malformed(f"request: {rule}, got {len(data)} bytes that are not")

    return read


async def receive_one(context: _Context, within_s: float) -> Any:
    """Return the one request of an RPC.

    Raises:
        InvalidRequestError: It could not be read, or there is none.
        StalledSenderError: It did not arrive in time.
    """
    try:
        async with asyncio.timeout(within_s):
            request = await context.read()
    except TimeoutError:
        rule = f"must arrive within {within_s:g} s"
        raise StalledSenderError(f"request: {rule}, did not") from None
    if request is grpc.aio.EOF:
        await asyncio.sleep(HANG_UP_S)
        raise InvalidRequestError("request: must be one message, got none")
    return _checked(request)


class CheckedRequests:
    """The requests of a stream; one that could not be read is an error where it stands.

    gRPC's own iterator is in a ring of references with what it gave last, which would stay until
    the garbage collector comes.
    """

    def __init__(self, context: _Context) -> None:
        self._context = context

    def __aiter__(self) -> "CheckedRequests":
        return self

    async def __anext__(self) -> Any:
        request = await self._context.read()
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        return _checked(request)


def _checked(request: Any) -> Any:
    """Return a request that could be read.

    Raises:
        InvalidRequestError: It could not.
    """
    if isinstance(request, _Malformed):
        raise InvalidRequestError(request.rule)
    return request
