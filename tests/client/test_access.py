"""Keys and tokens of both clients, on connections to real servers."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from pad_client import (
    AccessDeniedError,
    AsyncGeneratorClient,
    GeneratorClient,
    InvalidRequestError,
    UnavailableError,
)
from tests.client.conftest import Pad
from tests.client.fake_server import FakeServer, add_to_server
from tests.tls_keys import Authority, Pair

TOKEN = "pad_secret-of-the-client"
ELSEWHERE = "pad.example:50051"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ca")


@pytest.fixture(scope="module")
def own(authority: Authority) -> Pair:
    return authority.issue("client")


@pytest.fixture
async def encrypted(fake: FakeServer, authority: Authority) -> AsyncIterator[str]:
    """The address of a server that asks callers for certificates."""
    pair = authority.issue("server", "DNS:localhost,DNS:pad.test")
    server = grpc.aio.server()
    add_to_server(fake, server)
    keys = [(pair.key.read_bytes(), pair.cert.read_bytes())]
    credentials = grpc.ssl_server_credentials(keys, authority.cert.read_bytes(), True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    yield f"localhost:{port}"
    await server.stop(None)


@pytest.fixture(params=[GeneratorClient, AsyncGeneratorClient])
def kind(request: pytest.FixtureRequest) -> Iterator[Any]:
    return request.param


async def ask(kind: Any, address: str, **access: Any) -> None:
    if kind is AsyncGeneratorClient:
        async with AsyncGeneratorClient(address, timeout_s=20, **access) as client:
            await client.complete(prompt="Hi")
    else:
        with GeneratorClient(address, timeout_s=20, **access) as threaded:
            await asyncio.to_thread(threaded.complete, prompt="Hi")


async def test_keys_from_files_and_a_token_reach_the_server(
    kind: Any, encrypted: str, authority: Authority, own: Pair, fake: FakeServer
) -> None:
    keys = {"ca_file": authority.cert, "cert_file": own.cert, "key_file": str(own.key)}
    await ask(kind, encrypted, token=TOKEN, **keys)
    assert fake.metadata[-1]["authorization"] == f"Bearer {TOKEN}"
    ip = f"127.0.0.1:{encrypted.rpartition(':')[2]}"
    await ask(kind, ip, server_name="pad.test", **keys)
    name = {"server_name": "pad.test"}
    for access in (
        keys,  # another name
        {"ca_file": authority.cert, **name},  # no certificate of our own
        {"tls": True, "cert_file": own.cert, "key_file": own.key, **name},  # not its authority
        {},  # no TLS
    ):
        with pytest.raises(UnavailableError) as caught:
            await ask(kind, ip, **access)
        assert "does the server speak TLS?" in caught.value.hint


async def test_tls_to_a_server_without_it_is_told(
    kind: Any, address: str, authority: Authority
) -> None:
    with pytest.raises(UnavailableError) as caught:
        await ask(kind, address, ca_file=authority.cert)
    assert "plain text: leave them out" in caught.value.hint


def test_where_nobody_listens_keys_are_no_matter() -> None:
    with GeneratorClient("127.0.0.1:1", timeout_s=20) as client:
        with pytest.raises(UnavailableError) as caught:
            client.server_info()
        assert "`pad up` starts a server" in caught.value.hint


async def test_a_token_file_is_read_at_each_call(
    address: str, fake: FakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    async with AsyncGeneratorClient(address, token_file=path) as client:
        await client.complete(prompt="Hi")
        path.write_text("pad_next")
        await client.complete(prompt="Hi")
        path.write_text("two words")
        with pytest.raises(AccessDeniedError, match="must hold one token and nothing else"):
            await client.server_info()
    sent = [metadata["authorization"] for metadata in fake.metadata]
    assert sent == [f"Bearer {TOKEN}", "Bearer pad_next"]


@pytest.mark.parametrize(
    "secret", [{"token": TOKEN}, {"metadata": [("Authorization", f"Bearer {TOKEN}")]}]
)
def test_a_token_is_not_sent_in_the_clear_to_another_machine(kind: Any, secret: Any) -> None:
    for target in (ELSEWHERE, "127.evil.example:1", "10.0.0.1:50051"):
        with pytest.raises(InvalidRequestError) as refused:
            kind(target, **secret)
        assert f"must not be sent in the clear, got {target} without TLS" in str(refused.value)
        assert TOKEN not in str(refused.value)


def test_of_several_servers_none_may_be_another_machine(kind: Any) -> None:
    for several in (["127.0.0.1:1", "10.0.0.1:1"], "127.0.0.1:1,10.0.0.1:1", "ipv4:10.0.0.1:1"):
        with pytest.raises(InvalidRequestError, match="must not be sent in the clear"):
            kind(several, token=TOKEN)


async def test_a_token_may_go_where_it_is_safe_or_allowed(kind: Any, tmp_path: Path) -> None:
    for target in ("127.0.0.1:1", "localhost:1", "[::1]:1", f"unix:{tmp_path}/x"):
        await close(kind(target, token=TOKEN))
    await close(kind(ELSEWHERE, token=TOKEN, tls=True))
    await close(kind(ELSEWHERE, token=TOKEN, allow_plaintext_token=True))
    await close(kind(ELSEWHERE, token=TOKEN, credentials=grpc.ssl_channel_credentials()))


async def close(client: Any) -> None:
    if isinstance(client, AsyncGeneratorClient):
        await client.aclose()
    else:
        client.close()


def test_a_token_with_an_open_channel_must_be_allowed() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(InvalidRequestError, match="got an open channel without TLS"):
            GeneratorClient(channel, token=TOKEN)
        GeneratorClient(channel, token=TOKEN, allow_plaintext_token=True)
        with pytest.raises(InvalidRequestError, match="target: must be an address"):
            GeneratorClient(channel, tls=True)


def test_options_that_contradict_each_other_are_named(tmp_path: Path, own: Pair) -> None:
    text = tmp_path / "text"
    text.write_text("no key")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"token": TOKEN, "token_file": text}, "token, token_file: at most one must be given"),
        ({"cert_file": own.cert}, "cert_file, key_file: both or none must be given"),
        ({"ca_file": "/no/file"}, "ca_file: must be a readable file, got /no/file: No such"),
        ({"ca_file": text}, "ca_file: must be a file in PEM form"),
        ({"server_name": "x"}, "server_name: must be given with ca_file or tls"),
        ({"token": "two words"}, "token: must be ASCII characters without spaces"),
        (
            {"tls": True, "credentials": grpc.ssl_channel_credentials()},
            "credentials, ca_file: at most one must be given",
        ),
    ]
    for options, message in cases:
        with pytest.raises(InvalidRequestError) as refused:
            GeneratorClient("127.0.0.1:1", **options)
        assert str(refused.value).startswith(message)
        assert "two words" not in str(refused.value)
    with pytest.raises(AccessDeniedError, match="token_file: must be a readable file"):
        GeneratorClient("127.0.0.1:1", token_file="/no/file")


async def test_the_command_takes_keys_and_token_from_files(
    encrypted: str, authority: Authority, own: Pair, pad: Pad, fake: FakeServer, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    keys = ["--ca-file", authority.cert, "--cert-file", own.cert, "--key-file", own.key]
    options = [*map(str, keys), "--token-file", str(token_file)]
    for command in (["info"], ["profile", "list"], ["generate", "Hi"]):
        result = await pad(*options, *command, "--server", encrypted)
        assert result.exit_code == 0, result.stderr
        assert TOKEN not in result.output
    assert fake.metadata[-1]["authorization"] == f"Bearer {TOKEN}"


async def test_the_command_takes_keys_and_token_from_the_environment(
    pad: Pad, fake: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PAD_TOKEN", TOKEN)
    assert (await pad("generate", "Hi")).exit_code == 0
    assert fake.metadata[-1]["authorization"] == f"Bearer {TOKEN}"
    (tmp_path / "token").write_text("pad_of-a-file")
    monkeypatch.setenv("PAD_TOKEN_FILE", str(tmp_path / "token"))
    assert (await pad("generate", "Hi")).exit_code == 0
    assert fake.metadata[-1]["authorization"] == "Bearer pad_of-a-file"
    result = await pad("info", "--server", ELSEWHERE)
    assert result.exit_code == 1
    assert "must not be sent in the clear" in result.stderr
    monkeypatch.setenv("PAD_CA_FILE", "/no/file")
    result = await pad("info")
    assert result.exit_code == 1
    assert "ca_file: must be a readable file" in result.stderr
