"""What a call can fail with, and the one table from gRPC status to exception."""

from collections.abc import Iterable
from typing import cast

import grpc


class PadError(Exception):
    """A call that failed.

    Attributes:
        code: the gRPC status; None where the client refused the call itself.
        message: what went wrong, from the server where it answered.
        retryable: whether the same call may succeed later.
        retry_after_s: how long the server asks to wait before that; None if it does not say.
        hint: what the caller can do; may be empty.
        request_id: finds the call in the server's log; empty if the server did not answer.
    """

    retryable = False
    hint = ""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        if retryable is not None:
            self.retryable = retryable


class InvalidRequestError(PadError):
    """A field is missing or out of range."""

    hint = "correct the field that the message names"


class MessageTooLargeError(InvalidRequestError):
    """The request has more bytes than the server reads in one message."""

    hint = "send less text"


class NotFoundError(PadError):
    """The user has no profile."""

    hint = "check the user id; a user has a profile once one was put"


class ConflictError(PadError):
    """The profile changed since it was read."""

    hint = "read the profile again, then repeat the call with its new revision"


class DamagedProfileError(PadError):
    """What the server's store holds for the user is not a profile."""

    hint = "write the profile again"


class ModelMismatchError(PadError):
    """Profile, vocabulary or prompt does not fit the loaded model."""

    hint = "compare the request with the limits and models that server_info() reports"


class AccessDeniedError(PadError):
    """The call carried no valid token, or its tenant may not do this."""

    hint = "check the token (token_file, PAD_TOKEN_FILE), its scopes and when it expires"


class OverloadedError(PadError):
    """The server is full and did nothing."""

    retryable = True
    hint = "wait, then try again"


class UnavailableError(PadError):
    """The server, or something it needs, does not answer."""

    retryable = True
    hint = "check the address and try again; `pad up` starts a server on this machine"


class DeadlineExceededError(PadError):
    """The call took longer than its timeout."""

    hint = "allow more time with timeout_s, or ask for fewer tokens"


class RequestCancelledError(PadError):
    """The call was cancelled before it was complete."""


class InternalError(PadError):
    """A fault of the server; its log says more."""

    hint = "look for the error in the server's log"


_ERROR_OF_STATUS: dict[grpc.StatusCode, type[PadError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.DATA_LOSS: DamagedProfileError,
    grpc.StatusCode.FAILED_PRECONDITION: ModelMismatchError,
    grpc.StatusCode.UNAUTHENTICATED: AccessDeniedError,
    grpc.StatusCode.PERMISSION_DENIED: AccessDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: RequestCancelledError,
    grpc.StatusCode.INTERNAL: InternalError,
}

_TLS_MARKS = ("handshake", "Hostname Verification", "Socket closed")  # in gRPC's own words
_TLS_HINT = (
    "does the server speak TLS? --ca-file (ca_file), and --cert-file (cert_file) if it asks for"
    " one; certificate for another name: --server-name (server_name); plain text: leave them out"
)

PUSHBACK_KEY = "grpc-retry-pushback-ms"
REQUEST_ID_KEY = "x-request-id"


def error_from_rpc(error: grpc.RpcError) -> PadError:
    """Return the typed error of a failed RPC, sync or aio."""
    # Both kinds of RpcError carry a call's closing facts; only the sync one says so in its type.
    call = cast(grpc.Call, error)
    return error_from_status(call.code(), call.details(), call.trailing_metadata() or ())


def error_from_status(
    code: grpc.StatusCode,
    details: str | None,
    trailing_metadata: Iterable[tuple[str, str | bytes]] = (),
) -> PadError:
    """Return the typed error of a status; a status without a row is a plain `PadError`."""
    trailing = dict(trailing_metadata)
    pushback_ms = read_pushback(trailing.get(PUSHBACK_KEY))
    must_not_retry = pushback_ms is not None and pushback_ms < 0
    kind = _ERROR_OF_STATUS.get(code, PadError)
    if kind is OverloadedError and pushback_ms is None:
        # gRPC itself refuses with this status, before our services, which always send a delay.
        kind = MessageTooLargeError
    error = kind(
        details or code.name,
        code=code,
        retryable=False if must_not_retry else None,
        retry_after_s=None if pushback_ms is None or must_not_retry else pushback_ms / 1000,
        request_id=str(trailing.get(REQUEST_ID_KEY, "")),
    )
    if kind is UnavailableError and _is_tls_mismatch(details or ""):
        error.hint = _TLS_HINT
    return error


def _is_tls_mismatch(details: str) -> bool:
    """Return whether a connection was made, and ended before it could be used.

    A server that hangs up in the course of a call says "Socket closed" too, without "last error".
    """
    return "last error: " in details and any(mark in details for mark in _TLS_MARKS)


def read_pushback(value: str | bytes | None) -> int | None:
    """Return the milliseconds the server asks to wait; negative means: do not retry (gRFC A6)."""
    if value is None:
        return None
    try:
        return int(value)
    except ValueError:
        return -1  # as gRFC A6 rules for what cannot be read
