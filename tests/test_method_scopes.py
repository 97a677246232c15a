"""Each method of each service has a row in its server's table; what has none is open to nobody."""

import importlib
import logging
import pkgutil
from dataclasses import replace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import pad.v1
from generator_svc.access import METHOD_SCOPES as GENERATOR_SCOPES
from pad_client.tokens import TokenScope
from reward_svc.access import METHOD_SCOPES as REWARD_SCOPES
from svc_common.access import COMMON_SCOPES, access, anyone, certified, is_loopback, warn_if_exposed
from svc_common.callers import NOBODY, Caller, Scope, current_caller
from svc_common.errors import ServiceError, UnauthenticatedError
from tests.svc_common.small_service import NAME, OPTIONS, running

COMMON = [health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR]


def methods(files):
    return {
        f"{service.full_name}/{method.name}"
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    }


def contract():
    names = [m.name for m in pkgutil.iter_modules(pad.v1.__path__) if m.name.endswith("_pb2")]
    return [importlib.import_module(f"pad.v1.{name}").DESCRIPTOR for name in names]


def test_every_method_of_the_contract_has_one_row_and_every_row_a_method():
    rows = [*GENERATOR_SCOPES, *REWARD_SCOPES]
    assert len(rows) == len(set(rows))
    assert set(rows) == methods(contract())


def test_every_method_that_comes_with_grpc_has_a_row():
    assert set(COMMON_SCOPES) == methods(COMMON)
    open_to_all = {method for method, scope in COMMON_SCOPES.items() if scope is None}
    assert {method.partition("/")[0] for method in open_to_all} == {"grpc.health.v1.Health"}
    assert None not in {**GENERATOR_SCOPES, **REWARD_SCOPES}.values()


def test_what_changes_profiles_asks_for_more_than_what_reads_them():
    for method, scope in GENERATOR_SCOPES.items():
        service, _, name = method.partition("/")
        if service == "pad.v1.ProfileService":
            reads = name.startswith(("Get", "List"))
            assert scope == (Scope.PROFILES_READ if reads else Scope.PROFILES_WRITE)


def test_the_client_makes_tokens_with_the_scopes_that_servers_know():
    assert [str(scope) for scope in TokenScope] == [str(scope) for scope in Scope]


async def answer(request, context):
    return current_caller().tenant.encode()


async def stream(request, context):
    yield b"never"


async def code(call):
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def refuse(context):
    raise UnauthenticatedError("authorization: must be shown")


async def test_a_method_without_a_row_is_open_to_nobody_whoever_calls():
    options = replace(OPTIONS, identify=access({f"{NAME}/unary": Scope.GENERATE}, anyone("t")))
    async with running(options, unary=answer, server_stream=stream) as service:
        assert await service.call("unary")(b"") == b"t"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await service.call("server_stream")(b"").read()
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert refused.value.details() == f"{NAME}/server_stream: is open to nobody"


async def test_probes_are_answered_to_strangers_and_reflection_is_not():
    options = replace(OPTIONS, identify=access({}, refuse))
    async with running(options, unary=answer) as service:
        health = health_pb2_grpc.HealthStub(service.channel)
        request = health_pb2.HealthCheckRequest()
        assert await code(health.Check(request)) == grpc.StatusCode.OK
        assert await code(health.List(health_pb2.HealthListRequest())) == grpc.StatusCode.OK
        watch = health.Watch(request)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        reflection = reflection_pb2_grpc.ServerReflectionStub(service.channel)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        call = reflection.ServerReflectionInfo(iter(asked))
        assert await code(call.read()) == grpc.StatusCode.UNAUTHENTICATED


async def test_reflection_is_for_administrators():
    for scopes, expected in [({Scope.GENERATE}, "PERMISSION_DENIED"), ({Scope.ADMIN}, "OK")]:
        caller = Caller("t", "name", frozenset(scopes))
        options = replace(OPTIONS, identify=access({}, lambda _, caller=caller: caller))
        async with running(options, unary=answer) as service:
            reflection = reflection_pb2_grpc.ServerReflectionStub(service.channel)
            asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
            call = reflection.ServerReflectionInfo(iter(asked))
            assert (await code(call.read())).name == expected


class Peer:
    def __init__(self, *names):
        self.names = names

    def peer_identities(self):
        return self.names or None


def test_a_certificate_must_have_one_of_the_allowed_names():
    identify = access({"a/b": Scope.SCORE}, certified(["gen.test", "gen2.test"], anyone("t")))
    assert identify(Peer(b"x", b"gen2.test"), "a/b").tenant == "t"
    for peer, expected in [
        (Peer(), "certificate: must be shown by the caller, got none"),
        (
            Peer(b"x.test", b"gen.test.evil"),
            "certificate: must be of an allowed client, got x.test",
        ),
    ]:
        with pytest.raises(ServiceError, match=expected):
            identify(peer, "a/b")
    assert identify(Peer(), "grpc.health.v1.Health/Check") == NOBODY


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("127.evil.example:1", False),
        ("reward:50052", False),
    ],
)
def test_only_this_machine_is_loopback(address, expected):
    assert is_loopback(address) is expected


@pytest.mark.parametrize(
    ("address", "asks_who_calls", "is_encrypted", "expected"),
    [
        ("0.0.0.0:1", False, True, ["whoever reaches this address may call"]),
        ("0.0.0.0:1", True, False, ["tokens come in the clear unless a proxy ends TLS"]),
        ("0.0.0.0:1", True, True, []),
        ("127.0.0.1:1", False, False, []),
    ],
)
def test_what_strangers_could_do_is_logged(caplog, address, asks_who_calls, is_encrypted, expected):
    with caplog.at_level(logging.WARNING, "svc_common.access"):
        warn_if_exposed(address, asks_who_calls=asks_who_calls, is_encrypted=is_encrypted)
    assert [record.getMessage() for record in caplog.records] == expected
