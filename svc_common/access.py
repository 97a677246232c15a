"""Which caller may call which method: a table with a scope per method, and no others."""

import ipaddress
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from svc_common.callers import ALL_SCOPES, NOBODY, Caller, Context, Identify, Scope
from svc_common.errors import PermissionDeniedError, UnauthenticatedError

logger = logging.getLogger(__name__)

MethodScopes: TypeAlias = Mapping[str, Scope | None]
"""The scope that each method (`package.Service/Method`) asks for; None: open to all."""

Authenticate: TypeAlias = Callable[[Context], Caller]
"""Returns who sent an RPC, or raises UnauthenticatedError or PermissionDeniedError."""

# Probes have no secrets, and learn nothing but whether the server works. Reflection tells what the
# published protos tell, but works on what a stranger sends.
COMMON_SCOPES: MethodScopes = {
    "grpc.health.v1.Health/Check": None,
    "grpc.health.v1.Health/List": None,
    "grpc.health.v1.Health/Watch": None,
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Scope.ADMIN,
}


def access(scopes: MethodScopes, authenticate: Authenticate) -> Identify:
    """Return an `Identify` that lets through who may call the method; methods of no table: nobody.

    Args:
        scopes: Of the server's own methods; `COMMON_SCOPES` is added.
        authenticate: Finds out who calls.
    """
    table = {**COMMON_SCOPES, **scopes}

    def identify(context: Context, method: str) -> Caller:
        if method not in table:
            raise PermissionDeniedError(f"{method}: is open to nobody")
        scope = table[method]
        if scope is None:
            return NOBODY
        caller = authenticate(context)
        if scope not in caller.scopes:
            has = ", ".join(sorted(caller.scopes)) or "none"
            raise PermissionDeniedError(
                f"{method}: must be called with the scope {scope}, {caller.name} has {has}"
            )
        return caller

    return identify


def anyone(tenant: str) -> Authenticate:
    """Return what takes every caller for a tenant that may do everything."""
    caller = Caller(tenant, scopes=ALL_SCOPES)
    return lambda _context: caller


def certified(names: Sequence[str], authenticate: Authenticate) -> Authenticate:
    """Return what asks for a client certificate of one of `names`, and then goes on to ask.

    A certificate's names are its subject alternative names, or its common name if it has none.
    """
    allowed = {name.encode() for name in names}

    def check(context: Context) -> Caller:
        shown: list[bytes] = list(context.peer_identities() or ())
        if not shown:
            raise UnauthenticatedError("certificate: must be shown by the caller, got none")
        if allowed.isdisjoint(shown):
            found = ", ".join(name.decode(errors="replace") for name in shown)
            raise PermissionDeniedError(f"certificate: must be of an allowed client, got {found}")
        return authenticate(context)

    return check


def is_loopback(address: str) -> bool:
    """Tell whether an address (`host:port` or `unix:path`) is reached from this machine alone."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name, whatever it looks like


def warn_if_exposed(listen: str, *, asks_who_calls: bool, is_encrypted: bool) -> None:
    """Log what strangers could do who reach the address."""
    if is_loopback(listen):
        return
    if not asks_who_calls:
        logger.warning("whoever reaches this address may call", extra={"address": listen})
    elif not is_encrypted:
        logger.warning(
            "tokens come in the clear unless a proxy ends TLS", extra={"address": listen}
        )
