"""Which servers a client calls: an address, a name that stands for many, or several addresses."""

import ipaddress
import re
from collections.abc import Sequence

from pad_client.errors import InvalidRequestError

MAX_PORT = 65535
# What gRPC reads by itself, and knows best.
_SCHEME = re.compile(r"(dns|unix|unix-abstract|ipv4|ipv6|vsock|xds):|[a-z][a-z0-9+.-]*://")
_HOST_PORT = re.compile(r"(\[[^\s/@\[\]]+\]|[^\s:/@\[\]]+):[0-9]+")


def grpc_target(target: str | Sequence[str]) -> str:
    """Return what gRPC calls the servers of `target`.

    Args:
        target: "host:port", where a DNS name may stand for many servers, or any other target of
            gRPC's; or several addresses, as a list or with commas between them.

    Raises:
        InvalidRequestError: it is none, or several that are not all IP addresses of one version.
    """
    several = target.split(",") if isinstance(target, str) else list(target)
    several = [address.strip() for address in several]
    if not several:
        raise InvalidRequestError("target: must name a server, got none")
    for address in several:
        _check(address)
    if len(several) == 1:
        return several[0]
    if ":" in several[0] and several[0].partition(":")[0] in ("ipv4", "ipv6"):
        return ",".join(several)  # gRPC's own way to say it
    versions = {_version(address) for address in several}
    if len(versions) != 1:
        raise InvalidRequestError(f"target: must be of one IP version, got {', '.join(several)}")
    return f"ipv{versions.pop()}:{','.join(several)}"


def _check(address: str) -> None:
    """Refuse what gRPC would call something else, or by an error that says nothing.

    Raises:
        InvalidRequestError: it is no address.
    """
    if not address:
        raise InvalidRequestError("target: must be host:port, got ''")
    if address.startswith(("http://", "https://")):
        raise InvalidRequestError(f"target: must be host:port without a scheme, got {address!r}")
    port = address.rpartition(":")[2]
    if port.isdecimal() and not 1 <= int(port) <= MAX_PORT and not address.startswith("unix"):
        # gRPC takes the remainder of 65536.
        raise InvalidRequestError(f"target: must have a port of 1..{MAX_PORT}, got {address!r}")
    if _SCHEME.match(address) is None and _HOST_PORT.fullmatch(address) is None:
        # gRPC calls port 443 of a host without one, and has nothing to say of what is no host.
        raise InvalidRequestError(f"target: must be host:port, got {address!r}")


def _version(address: str) -> int:
    host, _, port = address.rpartition(":")
    try:
        int(port)
        return ipaddress.ip_address(host.strip("[]")).version
    except ValueError:
        raise InvalidRequestError(
            "target: several must be IP addresses with ports (or give one DNS name that stands for"
            f" them all), got {address!r}"
        ) from None
