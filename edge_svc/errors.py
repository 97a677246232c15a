"""What a call can fail with, in the words and statuses of the OpenAI API."""

import math
import re
from typing import Any

import grpc

from pad_client import (
    InvalidRequestError,
    MessageTooLargeError,
    PadError,
)

RETRY_AFTER_S = 1.0  # where the generator says nothing better
_INVALID = "invalid_request_error"
_SERVER = "server_error"

# Status, type and code by what the generator answers.
_OF_STATUS: dict[grpc.StatusCode, tuple[int, str, str]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (400, _INVALID, "invalid_value"),
    grpc.StatusCode.FAILED_PRECONDITION: (400, _INVALID, "model_mismatch"),
    grpc.StatusCode.UNAUTHENTICATED: (401, "authentication_error", "invalid_api_key"),
    grpc.StatusCode.PERMISSION_DENIED: (403, "permission_error", "permission_denied"),
    grpc.StatusCode.NOT_FOUND: (404, _INVALID, "profile_not_found"),
    grpc.StatusCode.ABORTED: (409, _INVALID, "conflict"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, "rate_limit_error", "overloaded"),
    grpc.StatusCode.DATA_LOSS: (500, _SERVER, "damaged_profile"),
    grpc.StatusCode.UNIMPLEMENTED: (501, _SERVER, "unimplemented"),
    grpc.StatusCode.UNAVAILABLE: (503, _SERVER, "unavailable"),
    grpc.StatusCode.CANCELLED: (503, _SERVER, "cancelled"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, _SERVER, "timeout"),
}
_INTERNAL = (500, _SERVER, "internal_error")
_WAIT_AND_RETRY = (429, 503)
# What is said where the generator itself said nothing.
_OWN_WORDS = {
    500: "internal error",
    503: "the generator does not answer",
    504: "the answer took longer than its timeout",
}

# Fields of the generator's contract by their names here, where those differ.
_FIELDS = {
    "user_id": "user",
    "chat.messages": "messages",
    "chat": "messages",
    **{
        name: f"pad.{name}"
        for name in (
            *("preferences", "beta", "top_k", "strategy", "reference", "fallback"),
            *("num_samples", "preference_in_base_prompt"),
        )
    },
}
_FIELD = re.compile(r"(?P<name>[a-z_]+(?:\.[a-z_]+)*)(?P<rest>[\w.\[\]]*)(?=[:,] )")


class ApiError(Exception):
    """A refusal with everything the caller is told about it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        type: str = _INVALID,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.type = type
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """Return the error as the API writes it."""
        names = ("message", "type", "param", "code")
        return {"error": {name: getattr(self, name) for name in names}}

    def headers(self) -> dict[str, str]:
        """Return what tells a client whether, and when, to try again."""
        headers = {"x-should-retry": str(self.retry_after_s is not None).lower()}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
            headers["retry-after-ms"] = str(max(1, math.ceil(self.retry_after_s * 1000)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def invalid(param: str, rule: str, code: str = "invalid_value") -> ApiError:
    """Return the refusal of a field."""
    return ApiError(400, f"{param}: {rule}", code=code, param=param)


def unsupported(param: str, rule: str) -> ApiError:
    """Return the refusal of a field that cannot be honoured here."""
    return invalid(param, rule, code="unsupported_parameter")


def overloaded(message: str) -> ApiError:
    """Return the refusal of a request there is no room for."""
    return ApiError(
        429,
        message,
        code="overloaded",
        type="rate_limit_error",
        retry_after_s=RETRY_AFTER_S,
    )


def internal() -> ApiError:
    """Return what is told about a fault of our own; the log says more."""
    status, kind, code = _INTERNAL
    return ApiError(status, "internal error", code=code, type=kind)


def from_pad(error: PadError) -> ApiError:
    """Return what the generator, or its client, refused, in the API's words."""
    if isinstance(error, MessageTooLargeError):
        return ApiError(413, error.message, code="request_too_large")
    if error.code is None and isinstance(error, InvalidRequestError):
        status, kind, code = _OF_STATUS[grpc.StatusCode.INVALID_ARGUMENT]
    else:
        status, kind, code = _OF_STATUS.get(error.code or grpc.StatusCode.UNKNOWN, _INTERNAL)
    message, param = error.message, None
    if status in (400, 404):
        message, param = _renamed(message)
    if not error.request_id:  # gRPC's own words, with addresses of ours
        message = _OWN_WORDS.get(status, message)
    retry_after_s = error.retry_after_s
    if retry_after_s is None and status in _WAIT_AND_RETRY and error.retryable:
        retry_after_s = RETRY_AFTER_S
    return ApiError(status, message, code=code, type=kind, param=param, retry_after_s=retry_after_s)


def _renamed(message: str) -> tuple[str, str | None]:
    """Return a message that names its field as the caller does, and that name."""
    found = _FIELD.match(message)
    if found is None:
        return message, None
    param = _FIELDS.get(found["name"], found["name"]) + found["rest"]
    return param + message[found.end() :], param
