"""Examines an installation, and says of whatever is not well what to do about it.

Nothing is changed, and no code of the services is imported here: files are read, a child process
imports what may be broken and has the services' code look at their variables, and a running server
is asked as any caller asks it. Needs the extra `cli`.
"""

from collections.abc import Iterator, Mapping, Sequence

from pad_client.doctor.child import ask_child
from pad_client.doctor.findings import Finding, Level, count, warn
from pad_client.doctor.keys import check_client_keys, check_service_keys
from pad_client.doctor.machine import check_clock, check_ports, check_redis, check_room
from pad_client.doctor.models import ModelFolders, check_models, weight_bytes
from pad_client.doctor.packages import (
    check_imports,
    check_packages,
    check_python,
    modules,
    serves,
)
from pad_client.doctor.server import Server, answers, check_server
from pad_client.doctor.variables import service_variables

__all__ = ["Finding", "Level", "ModelFolders", "Server", "examine", "service_variables"]


def examine(
    server: Server, folders: ModelFolders, variables: Mapping[str, str], *, is_quick: bool = False
) -> Iterator[Finding]:
    """Yield what is found, as it is found.

    Args:
        server: which one to ask.
        folders: the models, looked at where this installation is to serve.
        variables: what services are set by, looked at there too: see `service_variables`.
        is_quick: leave out importing the model libraries, which takes seconds, and with them the
            rules for the variables.
    """
    yield from check_python()
    yield from check_packages()
    found_by_child: Sequence[Finding] = ()
    if serves() and not is_quick:
        wanted = modules()
        told = ask_child(wanted, variables)
        found_by_child = told.findings
        yield from check_imports(wanted, told)
        if told.failure is not None and variables:
            yield warn("settings", "not examined, as that failed", "mend the packages first")
    yield from check_clock()
    yield from check_client_keys(server.access)
    found = list(check_server(server))
    yield from found
    if not serves():
        if variables:
            advice = "examine them where they are used: pad-serving is not installed here"
            found_there = f"{count(len(variables), 'variable')} of services, not examined"
            yield warn("settings", found_there, advice)
        return
    yield from check_models(folders)
    yield from check_redis()
    yield from check_ports([_port(server.address)] if answers(found) else [])
    yield from check_room(weight_bytes(folders.base) + weight_bytes(folders.persrm))
    yield from found_by_child
    yield from check_service_keys(variables)


def _port(address: str) -> int:
    port = address.rpartition(":")[2]
    return int(port) if port.isdecimal() else 0
