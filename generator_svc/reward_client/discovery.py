"""Where the reward replicas are: names and addresses to addresses."""

import asyncio
import logging
import socket

logger = logging.getLogger(__name__)


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
