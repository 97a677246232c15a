"""What settings may give as an address: of whom a service calls, and of where it listens."""

import ipaddress
import re
from collections.abc import Sequence

MAX_PORT = 65535
_PORT = re.compile(r"[0-9]{1,5}")
_NAME = re.compile(r"[^\s:/@\[\]]+")


def check_targets(targets: Sequence[str]) -> None:
    """Refuse what cannot be looked up and called: look-ups take a port's remainder of 65536.

    Raises:
        ValueError: One is neither `host:port`, with a port of 1..65535, nor `unix:path`.
    """
    for target in targets:
        if not (_is_socket_path(target) or is_host_port(target)):
            raise ValueError(f"must be host:port or unix:path, got {target!r}")


def check_listen(address: str) -> None:
    """Refuse what a gRPC server cannot listen at; port 0 is any that is free.

    Raises:
        ValueError: It is not `host:port`.
    """
    # Without brackets gRPC takes all of an IPv6 address for the host.
    if not is_host_port(address, min_port=0) or _is_bare_ipv6(address.rpartition(":")[0]):
        raise ValueError(f"must be host:port, got {address!r}")


def check_probe_listen(address: str) -> None:
    """Refuse what a server that answers probes alone cannot listen at; empty is for none.

    Raises:
        ValueError: It is neither `host:port` nor `unix:path`.
    """
    if address and not _is_socket_path(address):
        check_listen(address)


def check_http_listen(address: str) -> None:
    """Refuse what an HTTP server cannot listen at; without a host it is all of the machine's.

    Raises:
        ValueError: It is not `host:port`.
    """
    named = f"all{address}" if address.count(":") == 1 and address.startswith(":") else address
    if not is_host_port(named, min_port=0):
        raise ValueError(f"must be host:port, got {address!r}")


def is_host_port(address: str, *, min_port: int = 1) -> bool:
    """Return whether it is a name or IP address, and a port."""
    host, _, port = address.rpartition(":")
    if _PORT.fullmatch(port) is None or not min_port <= int(port) <= MAX_PORT:
        return False
    if host.startswith("[") and host.endswith("]"):
        return _is_bare_ipv6(host[1:-1])
    return _NAME.fullmatch(host) is not None or _is_bare_ipv6(host)


def _is_bare_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _is_socket_path(address: str) -> bool:
    return address.startswith("unix:") and address != "unix:"
