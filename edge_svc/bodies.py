"""Reads a request's body: JSON, of bounded size, within bounded time."""

import asyncio
from typing import Any

from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from edge_svc.errors import ApiError
from edge_svc.hang_up import CallerGoneError


async def read_json(request: Request, max_bytes: int, timeout_s: float) -> Any:
    """Return the JSON value of the body.

    Raises:
        ApiError: It is no JSON, too large or too slow.
        CallerGoneError: The caller hung up while sending it.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which a web page of another origin may not send unasked
        raise ApiError(415, "content-type: must be application/json", code="unsupported_media_type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        rule = "content-encoding: must be absent, bodies are read as they are"
        raise ApiError(415, rule, code="unsupported_media_type")
    try:
        async with asyncio.timeout(timeout_s):
            data = await _read(request, max_bytes)
    except TimeoutError:
        message = f"body: must arrive within {timeout_s:g} s"
        raise ApiError(408, message, code="request_timeout") from None
    except ClientDisconnect:
        raise CallerGoneError from None
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError:  # whose text may quote the body
        raise ApiError(400, "body: must be JSON in UTF-8", code="invalid_json") from None


async def _read(request: Request, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(data)


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, f"body: must have at most {max_bytes} bytes", code="request_too_large")
