"""TLS on real connections: what is refused at the start, and keys that change while serving."""

import logging
import shutil
import subprocess
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest

from svc_common.settings import SettingsError
from svc_common.tls import TlsFiles, client_credentials, server_credentials
from tests.svc_common.small_service import NAME, OPTIONS, running

SERVER, OTHER = "DNS:pad.test", "DNS:other.test"


@pytest.fixture
def own(authority, tmp_path):
    """Files of a server, which tests may replace."""
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    authority.issue("server", SERVER).move_to(cert, key)
    ca = tmp_path / "ca.crt"
    shutil.copy(authority.cert, ca)
    return TlsFiles("TEST_TLS_", str(cert), str(key), str(ca), "CLIENT_CA_FILE")


async def answer(request, context):
    return b"ok"


@asynccontextmanager
async def serving(files):
    async with running(replace(OPTIONS, credentials=server_credentials(files)), unary=answer) as up:
        yield up.address


async def call(address, authority, name="pad.test", pair=None):
    """Call on a new connection; return the answer or the status."""
    keys = (pair.key.read_bytes(), pair.cert.read_bytes()) if pair else ()
    credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes(), *keys)
    options = [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        try:
            return await channel.unary_unary(f"/{NAME}/unary")(b"", timeout=20)
        except grpc.aio.AioRpcError as error:
            return error.code()


REFUSED = grpc.StatusCode.UNAVAILABLE  # what gRPC makes of a failed handshake


async def test_encrypted_calls_are_answered_and_plain_ones_are_not(authority, stranger, own):
    async with serving(replace(own, ca="")) as address:
        assert await call(address, authority) == b"ok"
        assert await call(address, authority, name="other.test") == REFUSED
        assert await call(address, stranger) == REFUSED
        async with grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(f"/{NAME}/unary")(b"", timeout=20)


async def test_with_a_client_authority_each_caller_must_show_a_certificate(
    authority, stranger, own
):
    async with serving(own) as address:
        assert await call(address, authority) == REFUSED
        assert await call(address, authority, pair=stranger.issue("fake", SERVER)) == REFUSED
        assert await call(address, authority, pair=authority.issue("client")) == b"ok"


async def test_new_keys_are_used_without_a_restart_and_running_connections_go_on(
    authority, own, tmp_path
):
    files = replace(own, ca="")
    async with serving(files) as address:
        options = [("grpc.ssl_target_name_override", "pad.test")]
        trusted = grpc.ssl_channel_credentials(authority.cert.read_bytes())
        async with grpc.aio.secure_channel(address, trusted, options) as old:
            assert await old.unary_unary(f"/{NAME}/unary")(b"", timeout=20) == b"ok"
            authority.issue("second", OTHER).move_to(tmp_path / "tls.crt", tmp_path / "tls.key")
            assert await call(address, authority, name="other.test") == b"ok"
            assert await call(address, authority, name="pad.test") == REFUSED
            assert await old.unary_unary(f"/{NAME}/unary")(b"", timeout=20) == b"ok"


async def test_a_client_authority_can_be_replaced_without_a_restart(
    authority, stranger, own, tmp_path
):
    new_client, old_client = stranger.issue("new-client"), authority.issue("old-client")
    async with serving(own) as address:
        assert await call(address, authority, pair=new_client) == REFUSED
        both = authority.cert.read_text() + stranger.cert.read_text()
        (tmp_path / "ca.crt").write_text(both)
        assert await call(address, authority, pair=old_client) == b"ok"
        assert await call(address, authority, pair=new_client) == b"ok"
        (tmp_path / "ca.crt").write_text(stranger.cert.read_text())
        assert await call(address, authority, pair=old_client) == REFUSED
        assert await call(address, authority, pair=new_client) == b"ok"


@pytest.mark.parametrize("damage", ["key of another", "cut", "gone"])
async def test_bad_new_files_leave_the_old_keys_in_use_and_are_logged_once(
    authority, own, tmp_path, caplog, damage
):
    files = replace(own, ca="")
    second = authority.issue("second", OTHER)
    async with serving(files) as address:
        if damage == "key of another":
            shutil.copy(second.key, tmp_path / "tls.key")
        elif damage == "cut":
            (tmp_path / "tls.crt").write_bytes((tmp_path / "tls.crt").read_bytes()[:200])
        else:
            (tmp_path / "tls.key").unlink()
        with caplog.at_level(logging.ERROR, "svc_common.watched_files"):
            assert await call(address, authority) == b"ok"
            assert await call(address, authority) == b"ok"
        (record,) = caplog.records
        assert record.getMessage() == "changed secrets cannot be used; the old ones stay in use"
        assert "TEST_TLS_" in record.reason
        second.move_to(tmp_path / "tls.crt", tmp_path / "tls.key")
        assert await call(address, authority, name="other.test") == b"ok"


def encrypted_key(authority, tmp_path):
    path = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", authority.issue("locked").key, "-aes256", "-out", path]
    subprocess.run([*command, "-passout", "pass:x"], check=True, capture_output=True)
    return str(path)


def test_what_cannot_be_used_stops_the_start_with_setting_rule_and_value(authority, own, tmp_path):
    text, empty = tmp_path / "text", tmp_path / "empty"
    text.write_text("no certificate")
    empty.write_text("")
    other_key = str(authority.issue("another").key)
    locked = encrypted_key(authority, tmp_path)
    cert, key, ca = "TEST_TLS_CERT_FILE", "TEST_TLS_KEY_FILE", "TEST_TLS_CLIENT_CA_FILE"
    cases = [
        (replace(own, key=""), f"{key}: must be set where {cert} is"),
        (replace(own, cert=""), f"{cert}: must be set where {key} is"),
        (replace(own, cert="", key=""), f"{cert}: must be set where {ca} is"),
        (replace(own, cert="/no/file"), f"{cert}: must be a readable file, got /no/file: No such"),
        (replace(own, key=str(empty)), f"{key}: must be a file of 1.."),
        (replace(own, cert=str(text)), f"{cert}: must hold a certificate in PEM form, got {text}"),
        (replace(own, key=str(text)), f"{key}: must hold a private key in PEM form, got {text}"),
        (replace(own, ca=str(text)), f"{ca}: must hold certificates in PEM form, got {text}"),
        (replace(own, key=other_key), f"{key}: must be the key of the certificate in {cert}="),
        (replace(own, key=locked), f"{key}: must have no password, got {locked} with one"),
    ]
    for files, message in cases:
        with pytest.raises(SettingsError) as caught:
            server_credentials(files)
        assert str(caught.value).startswith(message)
    assert server_credentials(TlsFiles("TEST_TLS_", "", "", "", "CLIENT_CA_FILE")) is None


def test_a_client_without_authority_has_no_use_for_keys(own):
    files = TlsFiles("TEST_REWARD_", own.cert, own.key, "")
    with pytest.raises(SettingsError) as caught:
        client_credentials(files)
    assert str(caught.value) == ("TEST_REWARD_CA_FILE: must be set where TEST_REWARD_CERT_FILE is")
    with pytest.raises(SettingsError, match="TEST_REWARD_KEY_FILE: must be set where"):
        client_credentials(replace(files, key="", ca=own.ca))
    assert client_credentials(TlsFiles("TEST_REWARD_", "", "", "")) is None
