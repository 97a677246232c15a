"""Every line that a service writes is one JSON object, whatever happens to it, without texts."""

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import openai
import pytest

from pad_client import GeneratorClient, Message, PadError
from tests.e2e.secured import Secured, Service
from tests.edge_svc.edges import ENDLESS, ROOT

CANARY = "canary-of-a-caller"
SAY: Any = [{"role": "user", "content": f"Find me a hotel. {CANARY}"}]
LONG: Any = {"model": "demo-base", "messages": SAY, "max_tokens": 500, "extra_body": ENDLESS}


def parsed(log: str) -> list[dict[str, Any]]:
    """Return the lines of a log, each of which must be an event."""
    lines = [json.loads(line) for line in log.splitlines()]
    for line in lines:
        assert {"time", "level", "logger", "event"} <= line.keys(), line
        assert "\n" not in line["event"]
    return lines


@pytest.fixture(scope="module")
def edge(secured: Secured) -> Iterator[Service]:
    service = Service(
        "edge_svc",
        {
            "EDGE_GENERATOR": secured.address,
            "EDGE_GENERATOR_CA_FILE": str(secured.authority.cert),
            "EDGE_GENERATOR_SERVER_NAME": "pad.test",
            "EDGE_LISTEN": "127.0.0.1:0",
            "EDGE_METRICS_PORT": "0",
            "EDGE_LOG_LEVEL": "debug",
        },
    )
    yield service
    service.stop()


def send(address: str, data: bytes) -> None:
    """Say something that is no request, and hang up in the rudest way."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        connection.settimeout(1)
        with suppress(OSError):
            connection.recv(4096)
        rude = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, rude)


def annoy(secured: Secured, edge: Service) -> None:
    """Break rules at every port."""
    served = edge.wait_for("serving")
    ports = [served["address"], f"127.0.0.1:{served['metrics_port']}"]
    for place in secured.addresses.values():
        ports += [place["address"], place["health_address"], f"127.0.0.1:{place['metrics_port']}"]
    for address in ports:
        for data in (b"", f"{CANARY}\r\n\r\n".encode(), f"GET /{CANARY} HTTP/1.1\r\n\r\n".encode()):
            send(address, data)


def ask_wrongly(secured: Secured) -> None:
    """Make calls that fail in every way that a caller can bring about."""
    for token in ("pad_forged", secured.tokens["a"].secret):
        with GeneratorClient(
            secured.address, ca_file=secured.authority.cert, server_name="pad.test", token=token
        ) as client:
            asked: list[dict[str, Any]] = [
                {"preferences": [CANARY, "<|end|>"]},
                {"user_id": CANARY},
                {"preferences": ["Be brief."], "timeout_s": 0.05},
                {"preferences": [CANARY], "max_tokens": 2},
            ]
            for options in asked:
                with suppress(PadError):
                    client.complete(messages=[Message("user", CANARY)], **options)


def ask_wrongly_over_http(secured: Secured, url: str) -> None:
    """Make requests of the edge that fail, and leave others."""
    with openai.OpenAI(base_url=url, api_key=secured.tokens["a"].secret, max_retries=0) as client:
        create: Any = client.chat.completions.create
        for options in (
            {"model": CANARY, "messages": SAY},
            {"model": "demo-base", "messages": SAY, "user": CANARY},
            {"model": "demo-base", "messages": SAY, "extra_body": {CANARY: CANARY}},
            {**LONG, "extra_body": {"pad": {**ENDLESS["pad"], "timeout_s": 0.05}}},
        ):
            with pytest.raises(openai.APIStatusError):
                create(**options)
        with create(**LONG, stream=True) as stream:
            next(iter(stream))
        with pytest.raises(openai.APITimeoutError):
            create(**LONG, timeout=0.1)


def test_whatever_happens_each_line_is_one_object(secured: Secured, edge: Service) -> None:
    served = edge.wait_for("serving")
    annoy(secured, edge)
    ask_wrongly(secured)
    ask_wrongly_over_http(secured, f"http://{served['address']}/v1")
    for service in (edge, secured.generator, secured.reward):
        service.wait_for("request ended" if service is edge else "rpc ended")
        lines = parsed(service.log)
        ended = [line for line in lines if line["event"] in ("rpc ended", "request ended")]
        assert ended
        assert all(line.get("request_id") for line in ended)
        assert CANARY not in service.log


def test_a_request_is_found_under_one_id_in_all_logs(secured: Secured, edge: Service) -> None:
    url = f"http://{edge.wait_for('serving')['address']}/v1"
    with openai.OpenAI(base_url=url, api_key=secured.tokens["a"].secret, max_retries=0) as client:
        client.chat.completions.create(
            model="demo-base", messages=SAY, max_tokens=2, extra_headers={"x-request-id": "one-id"}
        )
    for service, event in ((edge, "request ended"), (secured.generator, "rpc ended")):
        service.wait_for("one-id")
        (line,) = [line for line in parsed(service.log) if line.get("request_id") == "one-id"][-1:]
        assert line["event"] == event


def test_what_the_http_server_says_has_the_requests_id() -> None:
    """uvicorn logs by itself that an application failed, after it did."""
    program = """
import asyncio, http.client, sys
import uvicorn
from prometheus_client import CollectorRegistry
from edge_svc.boundary import Boundary
from edge_svc.metrics import EdgeMetrics
from svc_common.logs import configure_logging, log_everything

log_everything()
configure_logging("info", sys.stderr)

async def broken(scope, receive, send):
    raise ValueError("canary-of-a-caller")

def ask(port):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/v1/models", headers={"x-request-id": "broken-1"})
    assert connection.getresponse().status == 500
    connection.close()

async def main():
    app = Boundary(broken, EdgeMetrics(CollectorRegistry()), 1)
    config = uvicorn.Config(app, port=0, log_config=None, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    await asyncio.to_thread(ask, port)
    server.should_exit = True
    await serving

asyncio.run(main())
"""
    lines = parsed(written(program))
    told = [line for line in lines if line["logger"] == "uvicorn.error"]
    assert told
    assert all(line["request_id"] == "broken-1" for line in lines)


WRITERS = {
    "uncaught": "raise ValueError('canary-of-a-caller')",
    "thread": "import threading\nt = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()",
    "unraisable": "class A:\n  def __del__(self): raise KeyError('canary-of-a-caller')\nA()",
    "warning": "import warnings\nwarnings.warn('old ways', DeprecationWarning, stacklevel=1)",
    "library": "from transformers.utils import logging as of_theirs\n"
    "of_theirs.get_logger('transformers.models').warning('amiss')",
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_python_and_libraries_write_themselves_becomes_a_line(name: str) -> None:
    start = "import sys\nfrom svc_common.logs import configure_logging, log_everything\n"
    if name == "library":
        start += "import transformers.utils.logging\n"
    start += "log_everything()\nconfigure_logging('info', sys.stderr)\n"
    log = written(f"{start}{WRITERS[name]}\n")
    assert parsed(log)
    assert CANARY not in log


def written(program: str) -> str:
    """Return what a Python program writes to stderr."""
    command = [sys.executable, "-W", "always", "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    "module", ["generator_svc", "reward_svc", "colocated_svc", "edge_svc", "playground_svc"]
)
def test_a_start_that_fails_says_so_in_one_line(module: str) -> None:
    prefix = module.removesuffix("_svc").upper().replace("COLOCATED", "GENERATOR")
    done = subprocess.run(
        [sys.executable, "-m", module],
        env={**os.environ, f"{prefix}_LOG_LEVEL": "loud"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 2
    (line,) = parsed(done.stderr)
    assert line["event"] == "cannot start"
    assert line["reason"].startswith(f"{prefix}_")
