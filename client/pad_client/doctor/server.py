"""Whether a running generator answers, and all it needs with it."""

from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from pad_client.access import AccessOptions
from pad_client.client import GeneratorClient
from pad_client.doctor.findings import Finding, fail, ok, warn
from pad_client.doctor.packages import client_version
from pad_client.embedded.probes import is_serving
from pad_client.errors import (
    AccessDeniedError,
    DeadlineExceededError,
    NotFoundError,
    PadError,
    UnavailableError,
)
from pad_client.types import ServerInfo

_LOG = "look for the cause in the server's log"
_NOBODY = "pad-doctor"  # a user without a profile, in all likelihood; nothing is written


@dataclass(frozen=True, slots=True)
class Server:
    """Which server to ask, and how.

    Attributes:
        address: of the generator.
        is_wanted: whether the user named it; else it is only where one would be.
        timeout_s: of each call.
        access: keys and token.
    """

    address: str
    is_wanted: bool
    timeout_s: float
    access: AccessOptions


def check_server(server: Server) -> Iterator[Finding]:
    """Ask the generator what it is, and then for what a request needs."""
    try:
        with GeneratorClient(server.address, timeout_s=server.timeout_s, **server.access) as client:
            try:
                info = client.server_info()
            except (UnavailableError, DeadlineExceededError) as error:
                yield _no_answer(server, error)
                return
            yield _check_health(server, info)
            yield _check_version(info)
            yield _check_replicas(info)
            yield _check_store(client)
            yield _check_answer(client)
    except PadError as error:
        yield fail("server", f"{server.address}: {_said(error)}", error.hint or _LOG)


def answers(findings: list[Finding]) -> bool:
    """Return whether a generator was found."""
    return any(each.check == "server.health" for each in findings)


def _no_answer(server: Server, error: PadError) -> Finding:
    found = f"{server.address}: no server answers"
    if isinstance(error, DeadlineExceededError):
        advice = "see what listens there; a server with TLS asks for --ca-file or --tls"
        return fail("server", f"{found} within {server.timeout_s:g} s", advice)
    if server.is_wanted:
        advice = "check address, TLS options and firewall; is the generator running?"
        return fail("server", f"{found}: {error}", advice)
    if error.hint != UnavailableError.hint:  # somebody is there, and hangs up
        return warn("server", f"{found}, something hangs up", error.hint)
    return warn("server", found, "`pad up` starts one; --server names another")


def _check_health(server: Server, info: ServerInfo) -> Finding:
    found = f"{server.address}: {info.model_id}, {info.num_slots} slots"
    if server.access.get("tls") or server.access.get("ca_file") or is_serving(server.address):
        return ok("server.health", found)
    return warn(
        "server.health", f"{found}, NOT_SERVING", "wait: it starts or stops; its log says which"
    )


def _check_version(info: ServerInfo) -> Finding:
    own = client_version()
    found = f"server {info.software_version}, client {own}"
    if own == info.software_version:
        return ok("server.version", found)
    return warn("server.version", found, "bring both to one version, the server first")


def _check_replicas(info: ServerInfo) -> Finding:
    replicas = info.reward_replicas
    if not replicas:
        return ok("server.replicas", "none set: rewards come from the same process, or not at all")
    lost = [each.address for each in replicas if not each.is_available]
    found = f"{len(replicas) - len(lost)} of {len(replicas)} available"
    if not lost:
        return ok("server.replicas", found)
    found += f"; not: {', '.join(lost)}"
    advice = "start them, or correct GENERATOR_REWARD_TARGETS; their logs say why they stopped"
    return (fail if len(lost) == len(replicas) else warn)("server.replicas", found, advice)


def _check_store(client: GeneratorClient) -> Finding:
    check = "server.store"
    try:
        client.get_profile(_NOBODY)
    except NotFoundError:
        pass
    except AccessDeniedError as error:
        return warn(check, f"not asked: {_said(error)}", "use a token with the scope profiles.read")
    except PadError as error:
        advice = "start Redis, or correct GENERATOR_REDIS_URL and its password"
        return fail(check, _said(error), advice)
    return ok(check, "profiles can be read")


def _check_answer(client: GeneratorClient) -> Finding:
    """Have one guided token written: that takes every part."""
    check = "server.answer"
    try:
        summary = client.complete(
            prompt="Hello", preferences=["Be brief."], max_tokens=1, fallback="fail"
        ).summary
    except AccessDeniedError as error:
        return warn(check, f"not asked: {_said(error)}", "use a token with the scope generate")
    except PadError as error:
        return fail(check, f"no guided token: {_said(error)}", error.hint or _LOG)
    return ok(check, f"a guided token in {1000 * summary.timings.total_s:.0f} ms")


def _said(error: PadError) -> str:
    code: grpc.StatusCode | None = error.code
    return f"{error} ({code.name})" if code else str(error)
