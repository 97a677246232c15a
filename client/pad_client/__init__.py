"""The Python client of PAD serving; depends on grpcio and protobuf only.

The names below are loaded when they are first used (PEP 562): gRPC takes a tenth of a second, which
`pad --help`, shell completion and programs that call a server now and then need not pay.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pad_client.access import AccessOptions
    from pad_client.aio import AsyncGeneratorClient
    from pad_client.aio_token_stream import AsyncTokenStream
    from pad_client.client import GeneratorClient
    from pad_client.errors import (
        AccessDeniedError,
        ConflictError,
        DamagedProfileError,
        DeadlineExceededError,
        InternalError,
        InvalidRequestError,
        MessageTooLargeError,
        ModelMismatchError,
        NotFoundError,
        OverloadedError,
        PadError,
        RequestCancelledError,
        UnavailableError,
    )
    from pad_client.token_stream import TokenStream
    from pad_client.types import (
        Candidate,
        Completion,
        Detail,
        Explanation,
        FallbackPolicy,
        FinishReason,
        GenerateOptions,
        Message,
        Preference,
        PreferenceExplanation,
        Priority,
        Profile,
        ProfileHistory,
        ReferenceMode,
        RewardModelUse,
        RewardReplica,
        ServerInfo,
        Strategy,
        Summary,
        Timings,
        Token,
        TokenExplanation,
    )

__all__ = [
    "AccessDeniedError",
    "AccessOptions",
    "AsyncGeneratorClient",
    "AsyncTokenStream",
    "Candidate",
    "Completion",
    "ConflictError",
    "DamagedProfileError",
    "DeadlineExceededError",
    "Detail",
    "Explanation",
    "FallbackPolicy",
    "FinishReason",
    "GenerateOptions",
    "GeneratorClient",
    "InternalError",
    "InvalidRequestError",
    "Message",
    "MessageTooLargeError",
    "ModelMismatchError",
    "NotFoundError",
    "OverloadedError",
    "PadError",
    "Preference",
    "PreferenceExplanation",
    "Priority",
    "Profile",
    "ProfileHistory",
    "ReferenceMode",
    "RequestCancelledError",
    "RewardModelUse",
    "RewardReplica",
    "ServerInfo",
    "Strategy",
    "Summary",
    "Timings",
    "Token",
    "TokenExplanation",
    "TokenStream",
    "UnavailableError",
]

# Cheapest first, so that a value's name alone does not load gRPC.
_MODULES = ("types", "errors", "access", "client", "aio")


def __getattr__(name: str) -> object:
    """Return a public name, or one of the modules that define them."""
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in __all__:
        for module in _MODULES:
            value = vars(import_module(f"{__name__}.{module}")).get(name)
            if value is not None:
                globals()[name] = value  # found at once from now on
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
