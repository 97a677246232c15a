"""Keys of the HTTP edge are replaced while it runs: those for callers and for the generator."""

import http.client
import ssl
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.secured import Secured, Service
from tests.edge_svc.edges import ENDLESS
from tests.tls_keys import Authority

SAY: Any = [{"role": "user", "content": "Find me a hotel."}]


def start(**settings: str) -> tuple[Service, str]:
    """Start an edge whose whole log is kept, and return it with its address."""
    edge = Service("edge_svc", {"EDGE_LISTEN": "127.0.0.1:0", "EDGE_METRICS_PORT": "0", **settings})
    return edge, edge.wait_for("serving")["address"]


def connect(address: str, authority: Authority) -> http.client.HTTPSConnection:
    host, _, port = address.partition(":")
    trusted = ssl.create_default_context(cafile=authority.cert)
    connection = http.client.HTTPSConnection(host, int(port), timeout=30, context=trusted)
    connection.connect()
    return connection


def name_of(connection: http.client.HTTPSConnection) -> str:
    """Return the common name that the server presented."""
    assert isinstance(connection.sock, ssl.SSLSocket)
    shown: Any = connection.sock.getpeercert()
    return str(dict(part[0] for part in shown["subject"])["commonName"])


def probe(connection: http.client.HTTPSConnection) -> int:
    connection.request("GET", "/healthz")
    with connection.getresponse() as response:
        response.read()
        return response.status


def test_the_certificate_is_replaced_and_a_bad_one_is_not_taken(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "keys", "ca")
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    authority.issue("first", "IP:127.0.0.1").move_to(cert, key)
    edge, address = start(
        EDGE_GENERATOR="127.0.0.1:1", EDGE_TLS_CERT_FILE=str(cert), EDGE_TLS_KEY_FILE=str(key)
    )
    try:
        before = connect(address, authority)
        assert name_of(before) == "first"
        authority.issue("second", "IP:127.0.0.1").move_to(cert, key)
        after = connect(address, authority)
        assert name_of(after) == "second"
        assert probe(before) == probe(after) == 200  # what is connected stays so
        cert.write_text("no certificate")
        with_old = connect(address, authority)
        assert name_of(with_old) == "second"
        for connection in (before, after, with_old):
            connection.close()
    finally:
        edge.stop()
    told = edge.wait_for("changed secrets cannot be used; the old ones stay in use")
    assert "EDGE_TLS_CERT_FILE" in told["reason"]


def test_keys_for_the_generator_are_replaced_while_an_answer_runs(
    secured: Secured, tmp_path: Path
) -> None:
    """First both authorities are trusted, then the generator's certificate comes from the other."""
    trusted = tmp_path / "generator-ca.crt"
    trusted.write_bytes(secured.authority.cert.read_bytes())
    edge, address = start(
        EDGE_GENERATOR=secured.address,
        EDGE_GENERATOR_CA_FILE=str(trusted),
        EDGE_GENERATOR_SERVER_NAME="pad.test",
    )
    other = Authority(tmp_path / "other", "other-ca")
    token = secured.tokens["a"].secret
    own = (secured.folder / "tls.crt", secured.folder / "tls.key")
    try:
        with openai.OpenAI(base_url=f"http://{address}/v1", api_key=token, max_retries=0) as client:
            create: Any = client.chat.completions.create
            ask = {"model": "demo-base", "messages": SAY}
            long = {**ask, "max_tokens": 200, "extra_body": ENDLESS}
            with create(**long, stream=True) as stream:
                chunks = iter(stream)
                next(chunks)
                bundle = secured.authority.cert.read_bytes() + other.cert.read_bytes()
                trusted.write_bytes(bundle)
                other.issue("pad", "DNS:pad.test").move_to(*own)
                assert create(**ask, max_tokens=2).usage.completion_tokens == 2
                edge.wait_for("new connection to the generator, with changed keys")
                assert list(chunks)[-1].choices[0].finish_reason == "length"
            trusted.write_bytes(secured.authority.cert.read_bytes())
            with pytest.raises(openai.InternalServerError):  # whom it does not trust any more
                create(**ask, max_tokens=2)
    finally:
        edge.stop()
        secured.authority.issue("again", "DNS:pad.test").move_to(*own)
