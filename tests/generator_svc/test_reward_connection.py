"""The generator's way to its rewards: each new connection reads the keys anew."""

import shutil
from dataclasses import replace

import grpc

from generator_svc.access import reward_connector
from svc_common.access import access, anyone, certified
from svc_common.callers import Scope
from svc_common.tls import TlsFiles, server_credentials
from tests.generator_svc.test_access import SETTINGS
from tests.svc_common.small_service import NAME, OPTIONS, running
from tests.tls_keys import Authority


async def answer(request, context):
    return b"ok"


async def call(connector, address):
    async with connector.open(address) as channel:
        try:
            return await channel.unary_unary(f"/{NAME}/unary")(b"", timeout=20)
        except grpc.aio.AioRpcError as error:
            return error.code().name


async def test_keys_and_authority_are_replaced_while_the_generator_runs(tmp_path):
    old, new = (Authority(tmp_path / name, name) for name in ("old", "new"))
    files = {name: tmp_path / name for name in ("cert", "key", "ca")}
    shutil.copy(old.cert, files["ca"])
    old.issue("generator", "DNS:generator.test").move_to(files["cert"], files["key"])
    connector = reward_connector(
        replace(
            SETTINGS,
            reward_ca_file=str(files["ca"]),
            reward_cert_file=str(files["cert"]),
            reward_key_file=str(files["key"]),
            reward_server_name="reward.test",
        )
    )

    def options(authority):
        pair = authority.issue("reward", "DNS:reward.test")
        keys = TlsFiles("TEST_", str(pair.cert), str(pair.key), str(authority.cert))
        allowed = certified(["generator.test"], anyone("t"))
        identify = access({f"{NAME}/unary": Scope.SCORE}, allowed)
        return replace(OPTIONS, credentials=server_credentials(keys), identify=identify)

    async with (
        running(options(old), unary=answer) as before,
        running(options(new), unary=answer) as after,
    ):
        assert await call(connector, before.address) == b"ok"
        assert await call(connector, after.address) == "UNAVAILABLE"
        shutil.copy(new.cert, files["ca"])
        new.issue("generator", "DNS:generator.test").move_to(files["cert"], files["key"])
        assert await call(connector, after.address) == b"ok"
        assert await call(connector, before.address) == "UNAVAILABLE"
        new.issue("other", "DNS:other.test").move_to(files["cert"], files["key"])
        assert await call(connector, after.address) == "PERMISSION_DENIED"
        files["key"].write_text("broken")
        assert await call(connector, after.address) == "PERMISSION_DENIED"  # the last good ones
