"""What an operator meets: probes, metrics, logs, limits, settings, drains."""

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import openai
import pytest

from edge_svc.generator import open_line, passes_tokens
from edge_svc.open_connections import OpenConnections
from edge_svc.server import server_config
from edge_svc.settings import EdgeSettings
from pad_client.embedded import EmbeddedStack
from svc_common.settings import SettingsError
from tests.edge_svc.edges import ENDLESS, MODEL, ROOT, SAY, metric, running_edge, until

OPTIONS: dict[str, Any] = {"model": MODEL, "messages": SAY, "max_tokens": 8}
LONG: dict[str, Any] = {**OPTIONS, "max_tokens": 200, "extra_body": ENDLESS}


def get(address: str, path: str, **headers: str) -> tuple[int, str, Any]:
    request = urllib.request.Request(f"http://{address}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode(), response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


def connect(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="any", max_retries=0, timeout=60)


def test_probes_answer_without_a_token(address: str) -> None:
    assert get(address, "/healthz")[:2] == (200, "ok\n")
    assert get(address, "/readyz")[:2] == (200, "ok\n")
    for path in ("/healthz", "/readyz"):  # as some balancers ask
        request = urllib.request.Request(f"http://{address}{path}", method="HEAD")
        with urllib.request.urlopen(request, timeout=30) as response:
            assert (response.status, response.read()) == (200, b"")


def test_metrics_count_requests_by_route_and_status(
    client: openai.OpenAI, stack: EmbeddedStack, address: str
) -> None:
    metrics = stack.metrics_addresses["edge"]
    route = 'route="/v1/chat/completions"'
    ok = f'pad_edge_requests_total{{{route},status="200"}}'
    first = f"pad_edge_time_to_first_token_seconds_count{{{route}}}"
    lost = 'pad_edge_requests_total{route="other",status="404"}'
    before = [metric(metrics, name) for name in (ok, first, lost)]
    client.chat.completions.create(**OPTIONS)
    list(client.chat.completions.create(**OPTIONS, stream=True))
    get(address, "/secret-path-of-a-user")
    after = [metric(metrics, name) for name in (ok, first, lost)]
    assert after == [before[0] + 2, before[1] + 2, before[2] + 1]
    assert "secret-path" not in get(metrics, "/metrics")[1]
    assert get(address, "/metrics")[0] == 404  # on a port of their own


def test_the_request_id_is_one_from_caller_to_generator(client: openai.OpenAI) -> None:
    headers = {"x-request-id": "trace-42"}
    raw = client.chat.completions.with_raw_response.create(**OPTIONS, extra_headers=headers)
    assert raw.headers["x-request-id"] == "trace-42"
    choice: Any = raw.parse().choices[0]
    assert choice.pad["summary"]["request_id"] == "trace-42"
    assert raw.parse()._request_id == "trace-42"


def test_logs_hold_no_text_user_or_token(stack: EmbeddedStack, url: str) -> None:
    texts = ("MarkedPrompt", "MarkedWish", "marked-user", "marked-token", "MarkedField")
    message = [{"role": "user", "content": f"{texts[0]} <|end|>"}]
    fine = [{"role": "user", "content": texts[0]}]
    with connect(url).with_options(api_key=texts[3]) as client:
        create: Any = client.chat.completions.create
        create(model=MODEL, messages=fine, extra_body={"pad": {"preferences": [texts[1]]}})
        for options in (
            {"messages": message},
            {"messages": fine, "user": texts[2]},
            {"messages": fine, "extra_body": {texts[4]: 1}},
            {"messages": [{"role": "user", "content": [{"type": texts[0]}]}]},
        ):
            with pytest.raises(openai.APIStatusError):
                create(model=MODEL, **options)
    log = (stack.directory / "edge.log").read_text()
    assert log.count('"request ended"') >= 5
    assert not [text for text in texts if text in log]
    assert all(json.loads(line) for line in log.splitlines())


def test_a_generator_that_is_not_there_is_said_without_its_address() -> None:
    with running_edge("127.0.0.1:1") as edge, connect(edge.url) as client:
        assert get(edge.address, "/healthz")[0] == 200
        assert get(edge.address, "/readyz")[0] == 503
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(**OPTIONS)
    assert caught.value.status_code == 503
    assert caught.value.message.endswith("the generator does not answer")
    assert caught.value.response.headers["x-should-retry"] == "true"


def test_requests_over_the_limit_are_refused_at_once(stack: EmbeddedStack, idle: None) -> None:
    with (
        running_edge(stack.address, EDGE_MAX_REQUESTS="1") as edge,
        connect(edge.url) as client,
        client.chat.completions.create(**LONG, stream=True) as stream,
    ):
        next(iter(stream))
        with pytest.raises(openai.RateLimitError, match="at most 1 are taken at once"):
            client.chat.completions.create(**OPTIONS)
        assert get(edge.address, "/readyz")[0] == 200  # probes always have room
        stream.close()
        in_work = "pad_edge_requests_in_work"
        until(lambda: metric(edge.metrics_address, in_work) == 0)
        assert client.chat.completions.create(**OPTIONS).choices


def test_a_drain_lets_running_answers_finish(stack: EmbeddedStack, idle: None) -> None:
    with running_edge(stack.address) as edge, connect(edge.url) as client:
        stream = client.chat.completions.create(**{**LONG, "max_tokens": 60}, stream=True)
        chunks = iter(stream)
        next(chunks)
        edge.process.send_signal(signal.SIGTERM)
        assert edge.process.stderr is not None
        assert any('"draining"' in line for line in edge.process.stderr)
        reader = threading.Thread(target=edge.process.stderr.read)
        reader.start()
        rest = list(chunks)
        assert edge.process.wait(30) == 0
        reader.join()
        assert rest[-1].choices[0].finish_reason == "length"
        with pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(**OPTIONS)


def test_a_second_signal_ends_running_answers(stack: EmbeddedStack, idle: None) -> None:
    with running_edge(stack.address) as edge, connect(edge.url) as client:
        stream = client.chat.completions.create(**{**LONG, "max_tokens": 900}, stream=True)
        next(iter(stream))
        for _ in range(2):
            edge.process.send_signal(signal.SIGTERM)
            assert edge.process.stderr is not None
            assert '"traceback"' not in edge.process.stderr.readline()
        assert edge.process.wait(30) == 0
        stream.close()


def test_settings_open_the_edge_to_other_origins_and_to_users_without_a_profile(
    stack: EmbeddedStack, address: str
) -> None:
    origin, other = {"Origin": "https://app.example"}, {"Origin": "https://other.example"}
    allowed = "access-control-allow-origin"
    assert allowed not in get(address, "/v1/models", **origin)[2]
    settings = {"EDGE_CORS_ORIGINS": origin["Origin"], "EDGE_IF_NO_PROFILE": "base"}
    with running_edge(stack.address, **settings) as edge, connect(edge.url) as client:
        assert get(edge.address, "/v1/models", **origin)[2][allowed] == origin["Origin"]
        assert allowed not in get(edge.address, "/v1/models", **other)[2]
        answer: Any = client.chat.completions.create(**OPTIONS, user="nobody")
        assert answer.choices[0].pad["summary"]["is_profile_missing"]
        extra = {"pad": {"if_no_profile": "error"}}
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**OPTIONS, user="nobody", extra_body=extra)


@pytest.mark.parametrize(
    ("settings", "texts"),
    [
        ({"EDGE_GENERATOR_URL": "x"}, ["EDGE_GENERATOR_URL", "no setting"]),
        ({"EDGE_LISTEN": "192.0.2.1:1"}, ["EDGE_LISTEN: must be a free address", "192.0.2.1:1"]),
        ({"EDGE_GENERATOR": "localhost"}, ["EDGE_GENERATOR: must be host:port, got 'localhost'"]),
    ],
    ids=str,
)
def test_a_wrong_setting_stops_the_start_with_its_name_rule_and_value(
    settings: dict[str, str], texts: list[str]
) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "edge_svc"],
        env={**os.environ, "EDGE_GENERATOR": "127.0.0.1:1", **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert result.returncode == 2, result.stderr
    assert all(text in result.stderr for text in texts), result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"generator_ca_file": "/nowhere"}, "EDGE_GENERATOR_CA_FILE: .*, got /nowhere"),
        ({"generator_cert_file": __file__}, "EDGE_GENERATOR_CA_FILE: must be set"),
        ({"tls_cert_file": __file__}, "EDGE_TLS_KEY_FILE: must be set where EDGE_TLS_CERT_FILE is"),
        (
            {"tls_cert_file": __file__, "tls_key_file": "/nowhere"},
            "EDGE_TLS_KEY_FILE: must be a readable file, got /nowhere",
        ),
    ],
    ids=str,
)
async def test_keys_that_cannot_be_used_are_named(settings: dict[str, str], text: str) -> None:
    wrong = EdgeSettings(generator=("127.0.0.1:1",), **settings)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=text):  # noqa: PT012 - of either half
        server_config(wrong, None, OpenConnections(2))
        async with open_line(wrong):
            pass


@pytest.mark.parametrize(
    ("settings", "are_passed"),
    [
        ({"generator": ("127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/run/pad.sock")}, True),
        ({"generator": ("127.0.0.1:1", "10.0.0.1:1")}, False),
        ({"generator": ("generator:1",)}, False),
        ({"generator": ("generator:1",), "generator_ca_file": "ca.pem"}, True),
        ({"generator": ("generator:1",), "passes_plaintext_tokens": True}, True),
    ],
    ids=str,
)
def test_tokens_travel_in_the_clear_only_where_that_is_wanted(
    settings: dict[str, Any], are_passed: bool
) -> None:
    assert passes_tokens(EdgeSettings(**settings)) is are_passed


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_it_is_served_over_tls_where_it_has_keys(stack: EmbeddedStack, tmp_path: Path) -> None:
    cert, key = tmp_path / "edge.crt", tmp_path / "edge.key"
    names = ["-subj", "/CN=edge", "-addext", "subjectAltName=IP:127.0.0.1"]
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    subprocess.run(
        ["openssl", "req", "-x509", "-days", "2", *names, *new_key, "-out", cert, "-keyout", key],
        check=True,
        capture_output=True,
    )
    files = {"EDGE_TLS_CERT_FILE": str(cert), "EDGE_TLS_KEY_FILE": str(key)}
    with running_edge(stack.address, **files) as edge:
        trusted = ssl.create_default_context(cafile=cert)
        url = f"https://{edge.address}/readyz"
        with urllib.request.urlopen(url, timeout=30, context=trusted) as response:
            assert response.read() == b"ok\n"
