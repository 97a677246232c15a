"""Whether the Redis that the generator's settings name can keep profiles, and keeps them.

Runs in the child process (see child.py), and asks by the generator's own code. Nothing is written.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pad_client.doctor.findings import Finding, Level, fail, ok, warn
from pad_client.doctor.imports import try_import
from pad_client.doctor.paths import named_pipes

_URL, _PASSWORD_FILE = "GENERATOR_REDIS_URL", "GENERATOR_REDIS_PASSWORD_FILE"
_CLUSTER = "GENERATOR_REDIS_CLUSTER"
_SCHEMES = ("redis", "rediss")
_TIMEOUT_S = 3.0
_FULL = 0.9  # of maxmemory
_KEYS, _KEY = "pad:v1:*", "pad:v1:doctor"  # the second is nobody's
_SEVERAL = f"several nodes need {_CLUSTER}=true: docs/operate.md"
_SLOTS_LOST = f"see CLUSTER INFO there: each slot needs a node; and set {_CLUSTER}=true"
_REMEDIES = {  # by `generator_svc.redis_calls.FailureKind`
    "silent": f"check {_URL} and the firewall; a Redis with TLS is rediss://",
    "unreachable": f"start Redis, or correct {_URL}",
    "loading": "wait: it reads what it has kept",
    "read_only": f"name the primary in {_URL}: this is a replica",
    "full": "give it memory (maxmemory), never an eviction policy",
}


def check_store(variables: Mapping[str, str]) -> Iterator[Finding]:
    """Ask the store of profiles, if variables name one, whether it is fit for them."""
    url = variables.get(_URL)
    if url is None:
        return
    calls, reason = try_import("generator_svc.redis_calls")
    if calls is None:
        yield warn("redis", f"not asked: {reason}", "mend the packages first")
        return
    has_file = bool(variables.get(_PASSWORD_FILE))
    is_cluster = variables.get(_CLUSTER) == "true"
    addresses = _addresses(url)
    problem = next(
        filter(None, (_url_problem(each, has_file=has_file) for each in addresses)), None
    )
    if len(addresses) > 1 and not is_cluster and (problem is None or problem.check == "redis.url"):
        problem = fail("redis.url", f"{_URL} names {len(addresses)} nodes", _SEVERAL)
    if problem is not None:
        yield problem
        return
    if named_pipes(variables, [_PASSWORD_FILE]):
        return  # as keys.py says; to read one is to wait
    try:
        password = import_module("generator_svc.redis_password").read_password_file(
            variables.get(_PASSWORD_FILE, "")
        )
    except _settings_error():
        found = f"not asked: {_PASSWORD_FILE} must be a file with a password, or user and password"
        yield fail("redis", found, "correct the path, its mode, or what is in it")
        return
    is_in_url = "@" in url or "password=" in url
    if is_in_url:
        found = f"the password stands in {_URL}, for all processes of the service's user to see"
        yield warn(
            "redis.password", found, f"put it into a file, and name that in {_PASSWORD_FILE}"
        )
    has_password = is_in_url or password is not None
    options = {"password": password, "is_cluster": is_cluster}
    yield from asyncio.run(_ask(calls, url, options, has_password=has_password))


def _addresses(url: str) -> list[str]:
    """Return the address of each node that a URL names: of a cluster it may be several."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return [url]
    user, at, hosts = parts.netloc.rpartition("@")
    return [
        parts._replace(netloc=f"{user}{at}{host.strip()}").geturl() for host in hosts.split(",")
    ]


def _url_problem(url: str, *, has_file: bool) -> Finding | None:
    """Say what is wrong with the address, without a password that may be in it."""
    rule = f"{_URL}: must be redis://host:port/db, rediss://host:port/db or unix:///path"
    parts = _parts(url)
    if parts is None:
        return fail("redis.url", rule, "write / # ? @ : in a password as %2F %23 %3F %40 %3A")
    has_place = bool(parts.path) if parts.scheme == "unix" else parts.scheme in _SCHEMES
    if not has_place:
        return fail("redis.url", rule, "correct it: the service does not start with it")
    if has_file and "@" in parts.netloc:
        found = f"{_URL} and {_PASSWORD_FILE} both say who asks"
        return fail("redis.password", found, f"leave user and password out of {_URL}")
    return None


def _parts(url: str) -> SplitResult | None:
    """Return the parts of an address; None where a password must have torn it apart."""
    try:
        parts = urlsplit(url)
        is_torn = parts.scheme in _SCHEMES and "@" in url.replace(parts.netloc, "", 1)
        is_torn = is_torn or parts.port == 0
    except ValueError:  # by `port` too
        return None
    return None if is_torn else parts


async def _ask(
    calls: Any, url: str, options: Mapping[str, Any], *, has_password: bool
) -> list[Finding]:
    errors, refusal = import_module("redis.exceptions"), _settings_error()
    check_mode = import_module("generator_svc.store_client").check_mode
    try:
        client = import_module("generator_svc.redis_client").connect(url, _TIMEOUT_S, **options)
    except refusal as error:
        return [fail("redis.url", str(error), "correct it: the service does not start with it")]
    try:
        async with client, asyncio.timeout(3 * _TIMEOUT_S):
            try:
                await check_mode(client)
            except refusal as error:
                return [fail("redis.cluster", str(error), "set it so: docs/operate.md")]
            except (TypeError, ValueError, AttributeError):  # by redis-py, at its first connection
                rule = f"{_URL}: has options that cannot be used"
                return [fail("redis.url", rule, f"leave out what follows the ? in {_URL}")]
            found = _examine(calls, errors, client, has_password=has_password)
            return [each async for each in found]
    except TimeoutError:
        return [fail("redis.connection", "no answer in time", _REMEDIES["silent"])]


def _settings_error() -> type[Exception]:
    error: type[Exception] = import_module("svc_common.settings").SettingsError
    return error


async def _examine(
    calls: Any, errors: Any, client: Any, *, has_password: bool
) -> AsyncIterator[Finding]:
    where = ", ".join(map(_address, client.nodes))
    check = "redis.connection"
    try:
        nodes = await client.all_nodes()
        for node in nodes:
            where = _address(node)
            await node.ping()
        where = ", ".join(sorted(map(_address, nodes)))
        yield ok(check, f"{where}: {'answers' if len(nodes) == 1 else 'all answer'}")
        check = "redis.rights"
        # There is never such a key: what counts is that nobody minds, and that it takes writes.
        await client.exists(_KEY)
        await client.delete(_KEY)
        yield ok(check, f"may read and write {_KEYS}")
    except errors.AuthenticationError:
        advice = f"put the password, or user and password, into the file of {_PASSWORD_FILE}"
        problem = "is not the right one" if has_password else "is asked for, none is given"
        yield fail(check, f"{where}: the password {problem}", advice)
        return
    except (errors.ClusterDownError, errors.AskError) as error:  # MOVED is one of the latter
        yield fail(check, f"{where}: {error}", _SLOTS_LOST)
        return
    except (errors.RedisError, OSError) as error:
        yield _refusal(check, calls.failure_kind(error), f"{where}: {error}")
        return
    try:
        states = {_address(node): await node.info() for node in nodes}
    except errors.RedisError as error:
        found = f"eviction and persistence not asked: {error}"
        advice = (
            "ask as an administrator: CONFIG GET maxmemory-policy (noeviction), appendonly (yes)"
        )
        yield warn("redis.state", found, advice)
        return
    for finding in _worst(states):
        yield finding


def _worst(states: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Return the worst that is to be said of any node, by check; INFO by address."""
    levels, worst = list(Level), dict[str, Finding]()
    for address, state in states.items():
        for each in _judge(state):
            known = worst.get(each.check)
            if known is None or levels.index(each.level) > levels.index(known.level):
                is_one = len(states) == 1 or each.level is Level.OK
                worst[each.check] = (
                    each if is_one else replace(each, found=f"{address}: {each.found}")
                )
    return list(worst.values())


def _address(client: Any) -> str:
    named = client.connection_pool.connection_kwargs
    return str(named.get("path") or f"{named.get('host', 'localhost')}:{named.get('port', 6379)}")


def _refusal(check: str, kind: str, found: str) -> Finding:
    advice = f"see its log, and what its user may do with {_KEYS}"
    return fail(check, found, _REMEDIES.get(kind, advice))


def _judge(state: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare what INFO says with what docs/operate.md asks for."""
    yield _judge_eviction(state)
    yield _judge_persistence(state)
    limit, used = state.get("maxmemory", 0), state.get("used_memory", 0)
    if limit and used > _FULL * limit:
        found = f"{used / 1e6:.0f} of {limit / 1e6:.0f} MB used: writes are refused when it is full"
        yield warn("redis.memory", found, "give it memory (maxmemory), never an eviction policy")


def _judge_eviction(state: Mapping[str, Any]) -> Finding:
    policy = str(state.get("maxmemory_policy", "not told"))
    if policy == "noeviction":
        return ok("redis.eviction", "noeviction")
    advice = "CONFIG SET maxmemory-policy noeviction, and the same in its configuration"
    if not policy.startswith("allkeys"):  # what has no expiry, as profiles, is kept
        return warn("redis.eviction", f"maxmemory-policy {policy}: must be noeviction", advice)
    found = f"maxmemory-policy {policy}: evicts profiles, wishes are forgotten in silence"
    # Without a limit of memory nothing is evicted, until somebody sets one.
    return (fail if state.get("maxmemory") else warn)("redis.eviction", found, advice)


def _judge_persistence(state: Mapping[str, Any]) -> Finding:
    check = "redis.persistence"
    failed = [
        kind
        for kind, name in (
            ("append-only file", "aof_last_write_status"),
            ("dump", "rdb_last_bgsave_status"),
        )
        if state.get(name, "ok") != "ok"
    ]
    if failed:
        found = f"the last write of its {' and its '.join(failed)} failed"
        return fail(check, found, "look at its disk, and at its log")
    if state.get("aof_enabled"):
        return ok(check, "append-only file")
    found = "no append-only file: profiles written since its last dump, if any, go with it"
    return warn(check, found, "CONFIG SET appendonly yes, and the same in its configuration")
