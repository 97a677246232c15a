"""Where the reward replicas are: names and addresses to addresses."""

import asyncio
import logging
import socket

from svc_common.settings import SettingsError

logger = logging.getLogger(__name__)

MAX_PORT = 65535


def check_targets(setting: str, targets: tuple[str, ...]) -> None:
    """Refuse what can be no address.

    Raises:
        SettingsError: One has no port, or none that there is: look-ups take the remainder of 65536.
    """
    for target in targets:
        port = target.rpartition(":")[2]
        if not target.startswith("unix:") and not (port.isdecimal() and 0 < int(port) <= MAX_PORT):
            rule = f"must be host:port, with a port of 1..{MAX_PORT}, or unix:path"
            raise SettingsError(f"{setting}: {rule}, got {target}")


async def resolve(targets: tuple[str, ...]) -> tuple[set[str], bool]:
    """Return the addresses behind `host:port` or `unix:path` targets; a name may stand for many.

    A name that cannot be looked up now is logged, and the second value is then False.
    """
    loop = asyncio.get_running_loop()
    addresses: set[str] = set()
    is_complete = True
    for target in targets:
        if target.startswith("unix:"):
            addresses.add(target)
            continue
        host, _, port = target.rpartition(":")
        try:
            found = await loop.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        except OSError as error:
            logger.warning("name lookup failed", extra={"target": target, "reason": str(error)})
            is_complete = False
            continue
        for family, _, _, _, address in found:
            ip = f"[{address[0]!s}]" if family == socket.AF_INET6 else str(address[0])
            addresses.add(f"{ip}:{address[1]!s}")
    return addresses, is_complete
