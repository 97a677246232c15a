"""The examples, as their readers would run them, against real services."""

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pad_client import GeneratorClient
from pad_client.embedded import EmbeddedStack
from tests.e2e.processes import HOST, free_ports, until

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
ASK = [{"role": "user", "content": "Can you find me a hotel in Paris?"}]
WAIT_S = 60.0


@pytest.fixture(scope="module")
def backend(stack: EmbeddedStack) -> Iterator[str]:
    """The backend's address."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--log-level", "warning", "backend:app"],
        env={**os.environ, "PAD_SERVER": stack.address},
        cwd=EXAMPLES,
    )
    address = f"{HOST}:{port}"

    def answers() -> bool:
        assert process.poll() is None
        with contextlib.suppress(OSError):
            return call(address, "GET", "/healthz")[0] == 200
        return False

    try:
        until(answers, "the backend")
        yield address
    finally:
        process.terminate()
        assert process.wait(WAIT_S) in (0, -15)


def call(
    address: str, method: str, path: str, body: Any = None, user: str = "alice"
) -> tuple[int, str, dict[str, str]]:
    """Return status, text and headers."""
    connection = http.client.HTTPConnection(address, timeout=WAIT_S)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json", "X-User": user}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return response.status, response.read().decode(), found


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = re.findall(r"event: (\w+)\ndata: (.+)\n\n", text)
    return [(name, json.loads(data)) for name, data in found]


def metric(stack: EmbeddedStack, series: str) -> float:
    url = f"http://{stack.metrics_addresses['generator']}/metrics"
    with urllib.request.urlopen(url, timeout=WAIT_S) as response:
        page = response.read().decode()
    found = re.search(rf"^{re.escape(series)} (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_backend_streams_an_answer_in_the_users_tone(backend: str, client: GeneratorClient) -> None:
    assert call(backend, "PUT", "/wishes", {"wishes": ["Be brief."]})[0] == 204
    try:
        status, text, headers = call(backend, "POST", "/answers", {"messages": ASK})
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        *tokens, (last, summary) = events(text)
        direct = client.complete(messages=ASK, user_id="alice", max_tokens=200)
        assert "".join(data["text"] for _, data in tokens) == direct.text
        assert last == "end"
        assert summary["num_changed_tokens"] == direct.summary.num_changed_tokens > 0
        assert not summary["was_unguided"]
    finally:
        assert call(backend, "DELETE", "/wishes")[0] == 204
    assert call(backend, "DELETE", "/wishes")[0] == 204


def test_backend_answers_users_it_does_not_know_as_the_base_model(
    backend: str, client: GeneratorClient
) -> None:
    _, text, _ = call(backend, "POST", "/answers", {"messages": ASK}, user="nobody")
    answer = "".join(data["text"] for name, data in events(text) if name == "token")
    assert answer == client.complete(messages=ASK, max_tokens=200).text


def test_backend_tells_what_is_wrong(backend: str) -> None:
    assert call(backend, "POST", "/answers", {"messages": []})[0] == 422
    # The next is found by the server alone: a mark of the model's own in the text.
    status, text, _ = call(
        backend, "POST", "/answers", {"messages": [{"role": "user", "content": "<|end|>"}]}
    )
    body = json.loads(text)
    assert (status, body["retryable"]) == (422, False)
    assert "chat.messages[0].content" in body["error"]
    assert body["request_id"]


def test_backend_without_a_server_says_503_and_when_to_come_back(backend: str) -> None:
    script = """
import asyncio, backend
from pad_client import PadError, UnavailableError, InternalError
for error in (UnavailableError("10.0.0.7:50051: refused"), InternalError("traceback")):
    response = asyncio.run(backend.show_error(None, error))
    print(response.status_code, response.headers.get("retry-after"), response.body.decode())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=EXAMPLES, capture_output=True, text=True, check=True
    )
    unavailable, internal = done.stdout.splitlines()
    assert unavailable.startswith("503 1 ")
    assert internal.startswith("500 None ")
    assert "10.0.0.7" not in unavailable  # addresses of ours are nobody's business
    assert "traceback" not in internal


def test_backend_stops_the_work_when_its_caller_leaves(backend: str, stack: EmbeddedStack) -> None:
    host, _, port = backend.partition(":")
    body = json.dumps({"messages": ASK, "max_tokens": 500}).encode()
    head = (
        "POST /answers HTTP/1.1\r\nHost: x\r\nX-User: nobody\r\nContent-Type: application/json"
        f"\r\nContent-Length: {len(body)}\r\n\r\n"
    )

    def num_cancelled() -> float:
        method = "pad.v1.GeneratorService/Generate"
        return metric(stack, f'pad_rpc_total{{code="CANCELLED",method="{method}"}}')

    before = num_cancelled()

    def leave() -> bool:
        """Read the beginning of an answer, and leave; a short one may be complete before."""
        with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
            connection.sendall(head.encode() + body)
            assert connection.recv(12) == b"HTTP/1.1 200"
        return num_cancelled() > before

    until(leave, "an answer to be given up")
    until(lambda: metric(stack, 'pad_sessions{state="active"}') == 0, "all of them to end")


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    lines = [{"id": f"r{number}", "messages": ASK, "max_tokens": 6} for number in range(6)]
    lines.append({"id": "bad", "messages": ASK, "beta": 99})
    lines.append({"id": "new", "messages": ASK, "user_id": "batch.new", "max_tokens": 6})
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def run_batch(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(EXAMPLES / "batch.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)


def read(path: Path) -> dict[str, dict[str, Any]]:
    answers = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({each["id"] for each in answers}) == len(answers)
    return {each["id"]: each for each in answers}


def test_batch_answers_every_request_and_goes_on_where_it_stopped(
    stack: EmbeddedStack, requests: Path, tmp_path: Path, client: GeneratorClient
) -> None:
    answers = tmp_path / "answers.jsonl"
    done = {"id": "r0", "text": "answered before"}
    answers.write_text(f'{json.dumps(done)}\n{{"id": "r1", "te')  # killed while it wrote
    result = run_batch(requests, answers, "--server", stack.address, "--concurrency", 3)
    assert "8 requests, 1 answered before" in result.stderr
    assert "5 answered, 1 refused, 1 left" in result.stderr
    assert "new: left: user_id: must have a profile" in result.stderr
    assert result.returncode == 1
    found = read(answers)
    assert found["r0"] == done
    assert set(found) == {"bad", *(f"r{number}" for number in range(6))}
    expected = client.complete(messages=ASK, max_tokens=6).text
    assert all(found[f"r{number}"]["text"] == expected for number in range(1, 6))
    assert found["bad"]["error"].startswith("beta: must be 0..10")
    client.put_profile("batch.new", ["Be brief."])  # then it can be answered
    again = run_batch(requests, answers, "--server", stack.address)
    assert "1 answered, 0 refused, 0 left" in again.stderr
    assert again.returncode == 0


def test_batch_without_a_server_says_so_once(requests: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    result = run_batch(requests, answers, "--server", "127.0.0.1:1", "--timeout", 1)
    assert result.returncode == 1
    assert "hint: " in result.stderr
    assert answers.read_text() == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "requests.jsonl:9: must be JSON"),
        ('{"prompt": "a"}', "requests.jsonl:9: must be an object with a text `id`"),
        ('{"id": "r0", "prompt": "a"}', "id 'r0' stands in line 1 too"),
        ('{"id": "x", "prompt": "a", "tempreature": 1}', "unknown fields: tempreature"),
    ],
)
def test_batch_names_the_line_that_is_no_request_before_it_sends_any(
    requests: Path, tmp_path: Path, line: str, said: str
) -> None:
    with requests.open("a") as file:
        file.write(f"{line}\n")
    result = run_batch(requests, tmp_path / "answers.jsonl", "--server", "127.0.0.1:1")
    assert result.returncode == 1
    assert said in result.stderr
    assert not (tmp_path / "answers.jsonl").exists()


def page_colours(*names: str) -> list[str]:
    """Return the playground's colours by day, which differ for every kind of colour vision."""
    style = (ROOT / "playground_svc/static/style.css").read_text()
    found = [re.search(rf"--{name}: light-dark\(#(\w{{6}}),", style) for name in names]
    return [", ".join(str(each) for each in bytes.fromhex(match[1])) for match in found if match]


def test_notebook_runs_from_top_to_bottom(
    stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cell by cell in one namespace, as a kernel would."""
    notebook = json.loads((EXAMPLES / "tokens.ipynb").read_text())
    cells = ["".join(each["source"]) for each in notebook["cells"] if each["cell_type"] == "code"]
    assert all(not each.get("outputs") for each in notebook["cells"])  # none are committed
    monkeypatch.setenv("PAD_SERVER", stack.address)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"cell {number}", "exec"), names)
    guided, axes = names["guided"], names["axes"]
    assert guided.summary.num_changed_tokens > 0
    assert len(axes.patches) == len(guided.tokens)
    shown = names["Coloured"](guided.tokens)._repr_html_()
    assert shown.count("<span") == len(guided.tokens)
    assert shown.count("text-decoration: underline") == guided.summary.num_changed_tokens
    likes, dislikes = page_colours("likes", "dislikes")
    num_liked = sum(token.reward > 0 for token in guided.tokens)
    assert shown.count(f"rgba({likes}, ") == num_liked > 0
    assert shown.count(f"rgba({dislikes}, ") == len(guided.tokens) - num_liked
    assert any(each.score > each.logprob for each in names["changed"].candidates)
    names["plt"].close(names["figure"])
