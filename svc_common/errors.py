"""The errors a service raises; `rpc_boundary` alone turns them into gRPC statuses."""

import grpc

RETRY_AFTER_S = 1.0  # where nothing better is known


class ServiceError(Exception):
    """An error with a status the caller can act on; its text names field, rule and value."""

    code = grpc.StatusCode.INTERNAL
    retry_after_s: float | None = None  # when the same call may succeed

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class InvalidRequestError(ServiceError):
    """A field is missing or out of range, whatever the state of the service."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class ProfileNotFoundError(ServiceError):
    """The user has no profile."""

    code = grpc.StatusCode.NOT_FOUND


class ProfileConflictError(ServiceError):
    """The profile changed since it was read."""

    code = grpc.StatusCode.ABORTED


class ProfileDamagedError(ServiceError):
    """What the store holds for the user is not a profile."""

    code = grpc.StatusCode.DATA_LOSS


class ModelMismatchError(ServiceError):
    """Profile, vocabulary or prompt does not fit the loaded model."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class OverloadedError(ServiceError):
    """A queue or the model's rows are full; nothing was done. It always says when to come back."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    retry_after_s = RETRY_AFTER_S


class UnwatchedError(ServiceError):
    """As many watch the health as may.

    gRPC's clients take a server without `Watch` for healthy, and one that refuses it by any other
    status for one that takes no calls.
    """

    code = grpc.StatusCode.UNIMPLEMENTED


class StalledReaderError(ServiceError):
    """The caller does not read what it asked for."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    retry_after_s = RETRY_AFTER_S


class StalledSenderError(ServiceError):
    """The caller does not send what its call is about."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    retry_after_s = RETRY_AFTER_S


class DeadlineExceededError(ServiceError):
    """The caller's deadline has passed, or is too near for any answer."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class RewardUnavailableError(ServiceError):
    """No reward replica answered in time."""

    code = grpc.StatusCode.UNAVAILABLE
    retry_after_s = RETRY_AFTER_S


class StoreUnavailableError(ServiceError):
    """The profile store did not answer in time."""

    code = grpc.StatusCode.UNAVAILABLE
    retry_after_s = RETRY_AFTER_S


class ShuttingDownError(ServiceError):
    """The process is stopping; another one may take the same call."""

    code = grpc.StatusCode.UNAVAILABLE
    retry_after_s = 0.5


class UnauthenticatedError(ServiceError):
    """The caller did not show who it is; the text never holds what was shown."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDeniedError(ServiceError):
    """The caller is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED
