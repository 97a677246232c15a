"""What is refused, in the form that the official client reads errors in."""

import json
import socket
from typing import Any

import openai
import pytest

from edge_svc.unsupported import NEUTRAL
from tests.edge_svc.edges import MODEL, SAY

IMAGE = {"type": "image_url", "image_url": {"url": "data:,secret"}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
# A value of each field that cannot be honoured; `suffix`, `echo`, `best_of` are of raw completions.
ASKING: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "best_of": 2,
    "echo": True,
    "frequency_penalty": 0.5,
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "logit_bias": {"50256": -100},
    "metadata": {"a": "b"},
    "modalities": ["text", "audio"],
    "moderation": {"model": "x"},
    "parallel_tool_calls": True,
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": -1,
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "x"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "response_format": {"type": "json_object"},
    "safety_identifier": "s",
    "service_tier": "flex",
    "store": True,
    "suffix": "end",
    "tool_choice": "auto",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "verbosity": "low",
    "web_search_options": {},
}


def refused(client: openai.OpenAI, fields: dict[str, Any]) -> openai.APIStatusError:
    body = {"model": MODEL, "messages": SAY, **fields}
    with pytest.raises(openai.APIStatusError) as caught:
        client.post("/chat/completions", body=body, cast_to=object)
    return caught.value


def test_every_field_that_cannot_be_honoured_is_tried() -> None:
    assert set(ASKING) == set(NEUTRAL)


@pytest.mark.parametrize("field", ASKING)
def test_what_cannot_be_honoured_is_refused_by_its_name(client: openai.OpenAI, field: str) -> None:
    error = refused(client, {field: ASKING[field]})
    assert isinstance(error, openai.BadRequestError)
    assert (error.code, error.param) == ("unsupported_parameter", field)
    assert error.type == "invalid_request_error"
    assert error.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"frobnicate": 1}, "frobnicate", "unknown_parameter"),
        ({"pad": {"betta": 1}}, "pad.betta", "unknown_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", None),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0].type", None),
        (
            {"messages": [*SAY, {"role": "assistant", "content": "x", "tool_calls": [CALL]}]},
            "messages[1].tool_calls",
            None,
        ),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": "<|end|>"}]},
            "messages[0].content",
            "invalid_value",
        ),
        ({"temperature": "1"}, "temperature", "invalid_value"),
        ({"temperature": 9}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 9}, "n", "invalid_value"),
        ({"max_tokens": 901}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "invalid_value"),
        ({"seed": 1 << 64}, "seed", "invalid_value"),
        ({"stop": ["a"] * 9}, "stop", "invalid_value"),
        ({"stop": 3}, "stop", "invalid_value"),
        ({"stop": [""]}, "stop[0]", "invalid_value"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"user": "not allowed!"}, "user", "invalid_value"),
        ({"pad": {"beta": 11, "preferences": ["a"]}}, "pad.beta", "invalid_value"),
        ({"pad": {"strategy": "magic"}}, "pad.strategy", "invalid_value"),
        ({"pad": {"strategy": "pad"}}, "user", "invalid_value"),
        ({"pad": {"preferences": ["a"] * 9}}, "pad.preferences", "invalid_value"),
        ({"pad": {"preferences": [{"text": 1}]}}, "pad.preferences[0].text", "invalid_value"),
        ({"pad": {"preferences": [{"text": "a", "weight": 0}]}}, "pad.preferences[0].weight", None),
        ({"pad": {"top_k": 101}}, "pad.top_k", "invalid_value"),
        ({"pad": {"timeout_s": 0}}, "pad.timeout_s", "invalid_value"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_field_that_breaks_its_rule_is_named(
    client: openai.OpenAI, fields: dict[str, Any], param: str, code: str | None
) -> None:
    error = refused(client, fields)
    assert isinstance(error, openai.BadRequestError)
    assert error.param == param, error.message
    assert error.code == (code or error.code)
    assert isinstance(error.body, dict)
    assert error.body["message"].startswith((f"{param}: ", f"{param}, "))
    assert "secret" not in error.message


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    error = refused(client, {"model": "gpt-4o"})
    assert isinstance(error, openai.NotFoundError)
    assert (error.code, error.param) == ("model_not_found", "model")


def test_tokens_as_a_prompt_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt=[1, 2, 3])
    assert caught.value.param == "prompt[0]"


def test_a_prompt_longer_than_the_context_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="at most 1023 tokens"):
        client.completions.create(model=MODEL, prompt="a b c d " * 600)


def test_a_body_too_large_is_refused(client: openai.OpenAI) -> None:
    error = refused(client, {"messages": [{"role": "user", "content": "x" * 20_001}]})
    assert error.status_code == 413
    assert error.code == "request_too_large"


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b'{"model": ', {}, 400, "invalid_json"),
        (b'{"model": "\xff"}', {}, 400, "invalid_json"),
        (b'{"model": "\\ud800"}', {}, 400, "invalid_json"),
        (b'{"temperature": NaN}', {}, 400, "invalid_json"),
        (b"[" * 10_000, {}, 400, "invalid_json"),
        (b"[]", {}, 400, "invalid_json"),
        (b"", {}, 400, "invalid_json"),
        (b"{}", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"content-encoding": "gzip"}, 415, "unsupported_media_type"),
        (b"{}", {"content-encoding": "identity"}, 400, "missing_required_parameter"),
        (b"{}", {}, 400, "missing_required_parameter"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_body_is_refused(
    client: openai.OpenAI, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.post(
            "/chat/completions",
            content=body,
            cast_to=object,
            options={"headers": {"content-type": "application/json", **headers}},
        )
    assert (caught.value.status_code, caught.value.code) == (status, code)


@pytest.mark.parametrize(("path", "status"), [("/embeddings", 404), ("/chat/completions", 405)])
def test_other_paths_and_methods_are_refused_in_the_same_form(
    client: openai.OpenAI, path: str, status: int
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.get(path, cast_to=object)
    assert caught.value.status_code == status
    assert caught.value.type == "invalid_request_error"


def send(address: str, head: str) -> tuple[bytes, socket.socket]:
    """Send the beginning of a request and return the answer's first line, and the connection."""
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{head}".encode())
    return connection.recv(65536), connection


def test_a_body_that_does_not_arrive_is_given_up(address: str) -> None:
    head = "Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
    answer, connection = send(address, head)
    with connection:
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2] or connection.recv(65536))["error"]


def test_a_body_in_chunks_is_bounded_too(address: str) -> None:
    chunk = "5000\r\n" + "x" * 0x5000 + "\r\n"
    head = f"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"
    answer, connection = send(address, head)
    with connection:
        assert answer.startswith(b"HTTP/1.1 413 ")
