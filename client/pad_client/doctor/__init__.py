"""Examines an installation, and says of whatever is not well what to do about it.

Nothing is changed, and no code of the services is imported: files are read, a child process
imports what may be broken, and a running server is asked as any caller asks it. Needs the extra
`cli`.
"""

import os
from collections.abc import Iterator

from pad_client.doctor.findings import Finding, Level
from pad_client.doctor.keys import check_client_keys, check_service_keys
from pad_client.doctor.machine import check_clock, check_ports, check_redis, check_room
from pad_client.doctor.models import ModelFolders, check_models, weight_bytes
from pad_client.doctor.packages import check_imports, check_packages, check_python, serves
from pad_client.doctor.server import Server, answers, check_server

__all__ = ["Finding", "Level", "ModelFolders", "Server", "examine"]


def examine(server: Server, folders: ModelFolders, *, is_quick: bool = False) -> Iterator[Finding]:
    """Yield what is found, as it is found.

    Args:
        server: which one to ask.
        folders: the models, looked at where this installation is to serve.
        is_quick: leave out importing the model libraries, which takes seconds.
    """
    yield from check_python()
    yield from check_packages()
    if not is_quick:
        yield from check_imports()
    yield from check_clock()
    yield from check_client_keys(server.access)
    found = list(check_server(server))
    yield from found
    if not serves():
        return
    yield from check_models(folders)
    yield from check_redis()
    yield from check_ports([_port(server.address)] if answers(found) else [])
    yield from check_room(weight_bytes(folders.base) + weight_bytes(folders.persrm))
    yield from check_service_keys(os.environ)


def _port(address: str) -> int:
    port = address.rpartition(":")[2]
    return int(port) if port.isdecimal() else 0
