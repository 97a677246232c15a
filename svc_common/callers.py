"""Who calls: found out once an RPC, at the boundary, and read wherever it matters."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import grpc


class Scope(StrEnum):
    """What a caller may do; none includes another."""

    GENERATE = "generate"
    PROFILES_READ = "profiles.read"
    PROFILES_WRITE = "profiles.write"
    SCORE = "score"  # of a reward service: what its generator does
    ADMIN = "admin"  # what concerns the server and no tenant


ALL_SCOPES = frozenset(Scope)


@dataclass(frozen=True)
class Caller:
    """Whoever sent the RPC that is being served.

    Attributes:
        tenant: Whose users, limits and profiles the call is about; without a colon. Empty for a
            caller of a method that is open to all and was not asked.
        name: Of the token or certificate that the caller showed; empty if none was asked for.
        scopes: What the caller may do.
    """

    tenant: str
    name: str = ""
    scopes: frozenset[Scope] = frozenset()


NOBODY = Caller("")

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Identify: TypeAlias = Callable[[Context, str], Caller]
"""Returns who sent an RPC of a method (`package.Service/Method`), or raises a ServiceError."""

_CALLER: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Return the caller of the RPC that is being served; only inside of one."""
    return _CALLER.get()


def set_caller(caller: Caller) -> None:
    """Say who sent the RPC whose task this is."""
    _CALLER.set(caller)


def anonymous(_context: object, _method: str) -> Caller:
    """Identify every caller as the one tenant of a server that does not ask."""
    return Caller("default")


def everyone_is(caller: Caller) -> Identify:
    """Return an `Identify` for a server of one tenant, which does not ask who calls."""
    return lambda _context, _method: caller
