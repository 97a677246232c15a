"""What the page's server answers, without a browser."""

import dataclasses
import json
import socket
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from pad_client import GeneratorClient, Preference, presets
from pad_client.embedded import EmbeddedStack
from playground_svc.presets import PROMPTS, axes, first_wishes
from tests.client.fake_server import Failure, FakeServer
from tests.edge_svc.edges import until
from tests.playground_svc.conftest import NUM_SLOTS, free_slots
from tests.playground_svc.playgrounds import ASK, FakeGenerator, ask, running_playground

WISHES = [{"text": "Be brief.", "weight": 1.5}]
Before = Callable[[FakeServer], tuple[FakeGenerator, str]]


def test_an_answer_streams_what_the_generator_writes(
    address: str, pad: GeneratorClient, stack: EmbeddedStack
) -> None:
    guided = {**ASK, "preferences": WISHES, "beta": 2.0, "top_k": 5}
    answered = ask(address, "/api/generate", guided)
    assert answered.headers["content-type"].startswith("text/event-stream")
    *tokens, (last, summary) = answered.events
    expected = pad.complete(
        messages=ASK["messages"],
        max_tokens=40,
        preferences=[Preference("Be brief.", 1.5)],
        beta=2.0,
        top_k=5,
        detail="candidates",
    )
    assert [kind for kind, _ in tokens] == ["token"] * len(expected.tokens)
    for (_, told), token in zip(tokens, expected.tokens, strict=True):
        want = dataclasses.asdict(token)
        assert [each["token_id"] for each in told["candidates"]] == [
            each.token_id for each in token.candidates
        ]
        for name in ("index", "text", "token_id", "guided", "changed", "base_text"):
            assert told[name] == want[name]
        assert told["reward"] == pytest.approx(token.reward, abs=1e-3)
    assert last == "summary"
    assert summary["num_changed_tokens"] == expected.summary.num_changed_tokens
    assert summary["beta"] == 2.0
    assert set(summary["timings"]) > {"prefill_s", "reward_wait_s", "total_s"}


def test_the_page_is_told_from_which_strength_text_may_break(address: str) -> None:
    """It had a number of its own, beside that of the command line."""
    assert ask(address, "/api/page").json["max_strength"] == presets.MAX_STRENGTH
    for name in ("app", "editor", "profile"):
        assert f"{presets.MAX_STRENGTH:g}" not in ask(address, f"/{name}.js").text


@pytest.mark.usefixtures("idle")
def test_a_page_that_hangs_up_frees_the_slots_of_its_answer(
    stack: EmbeddedStack, address: str, stopped_rewards: Callable[[], None]
) -> None:
    stopped_rewards()
    host, _, port = address.partition(":")
    body = b'{"messages": [{"role": "user", "content": "Hello."}], "preferences": [{"text": "x"}]}'
    head = (
        f"POST /api/generate HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        until(lambda: free_slots(stack) == NUM_SLOTS - 1)
    until(lambda: free_slots(stack) == NUM_SLOTS)


def test_the_page_offers_wishes_and_prompts_that_the_generator_takes(
    address: str, pad: GeneratorClient
) -> None:
    page = ask(address, "/api/page").json
    known = presets.load()
    assert (page["axes"], page["prompts"]) == (axes(known), PROMPTS)
    wishes = [pole["wish"] for axis in page["axes"] for pole in axis["poles"]]
    levels = [text for each in known.dimensions.values() for text in each.levels.values()]
    assert sorted(wishes) == sorted(levels)
    assert (
        page["first_wishes"]
        == first_wishes(known)
        == ["Be kind and chatty.", "Use formal language."]
    )
    for prompt in PROMPTS:
        pad.complete(messages=prompt["messages"], preferences=wishes[:8], max_tokens=1)
    pad.complete(messages=PROMPTS[0]["messages"], preferences=wishes[8:], max_tokens=1)


def test_what_is_served_is_told(address: str, pad: GeneratorClient) -> None:
    told, info = ask(address, "/api/server").json, pad.server_info()
    for name in ("model_id", "max_tokens", "max_top_k", "default_beta"):
        assert told[name] == getattr(info, name)
    assert len(told["reward_replicas"]) == 1


def test_profiles_are_saved_listed_and_loaded(address: str, pad: GeneratorClient) -> None:
    body = {"user_id": "api-1", "preferences": WISHES, "beta": None, "expected_revision": 0}
    saved = ask(address, "/api/profiles/put", body).json
    assert (saved["revision"], saved["preferences"], saved["beta"]) == (1, WISHES, None)
    assert pad.get_profile("api-1").preferences == (Preference("Be brief.", 1.5),)
    assert ask(address, "/api/profiles/get", {"user_id": "api-1"}).json == saved
    listed = ask(address, "/api/profiles").json
    assert saved in listed["profiles"]
    assert listed["is_complete"] is True


def test_a_profile_that_changed_meanwhile_is_not_overwritten(
    address: str, pad: GeneratorClient
) -> None:
    pad.put_profile("api-2", ["Be formal and polite."])
    body = {"user_id": "api-2", "preferences": WISHES, "beta": 1, "expected_revision": 0}
    refused = ask(address, "/api/profiles/put", body)
    assert (refused.status, refused.json["error"]["code"]) == (409, "conflict")
    assert pad.get_profile("api-2").revision == 1


def test_of_very_many_profiles_the_first_are_listed(before: Before) -> None:
    server = FakeServer()
    _, address = before(server)
    for number in range(201):
        body = {"user_id": f"u{number:03}", "preferences": WISHES, "expected_revision": 0}
        if number == 200:
            server.damaged = ("u999",)
            listed = ask(address, "/api/profiles").json
            assert (len(listed["profiles"]), listed["is_complete"]) == (200, True)
            assert "u999" in listed["damaged"]
        ask(address, "/api/profiles/put", body)
    listed = ask(address, "/api/profiles").json
    assert (len(listed["profiles"]), listed["is_complete"]) == (200, False)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ([], "body: must be an object"),
        ({}, "messages: must be given"),
        ({**ASK, "mesages": []}, "mesages: must be absent: there is no such field"),
        ({**ASK, "messages": []}, "messages: must have at least 1 entry, got 0"),
        ({**ASK, "messages": [{"role": "x", "content": "s"}]}, "messages.0.role: must be 'system'"),
        ({**ASK, "beta": "1"}, "beta: must be a valid number"),
        (
            json.dumps({**ASK, "beta": 0}).replace(": 0}", ": 1e400}").encode(),
            "beta: must be a finite",
        ),
        ({**ASK, "seed": 1 << 64}, "seed: must be less than"),
        ({**ASK, "max_tokens": 0}, "max_tokens: must be greater than or equal to 1"),
    ],
)
def test_a_body_that_is_none_is_refused_by_field_and_rule(
    address: str, body: Any, rule: str
) -> None:
    answered = ask(address, "/api/generate", body)
    assert answered.status == 400
    error = answered.json["error"]
    assert error["message"].startswith(rule)
    assert "hotel" not in answered.text


@pytest.mark.parametrize(
    ("field", "value"), [("beta", 11), ("top_k", 5000), ("max_tokens", 100_000), ("user_id", "a b")]
)
def test_what_the_generator_refuses_is_told_in_its_words(
    address: str, field: str, value: Any
) -> None:
    answered = ask(address, "/api/generate", {**ASK, field: value})
    error = answered.json["error"]
    assert (answered.status, error["title"]) == (400, "The generator cannot accept this request")
    assert error["message"].startswith(field)
    assert error["request_id"]


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b" " * 100_001, "application/json", 413),
    ],
)
def test_a_body_is_json_of_bounded_size(address: str, data: bytes, kind: str, status: int) -> None:
    answered = ask(address, "/api/generate", data, content_type=kind)
    assert answered.status == status
    assert answered.json["error"]["title"] == "The playground cannot read this"


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue: full", "2000"), 429, "busy"),
        (Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large"), 413, "too_large"),
        (Failure(grpc.StatusCode.UNAVAILABLE, "no reward", "-1"), 503, "unavailable"),
        (Failure(grpc.StatusCode.NOT_FOUND, "user_id: no profile"), 404, "not_found"),
        (Failure(grpc.StatusCode.DATA_LOSS, "damaged"), 500, "damaged"),
        (Failure(grpc.StatusCode.FAILED_PRECONDITION, "models"), 400, "mismatch"),
        (Failure(grpc.StatusCode.UNAUTHENTICATED, "no token"), 403, "denied"),
        (Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "late"), 504, "timeout"),
        (Failure(grpc.StatusCode.CANCELLED, "stopped"), 503, "cancelled"),
        (Failure(grpc.StatusCode.INTERNAL, "internal error"), 500, "internal"),
        (Failure(grpc.StatusCode.UNKNOWN, "what"), 500, "other"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_failure_has_words_before_and_after_the_first_token(
    fakes: dict[str, Any], failure: Failure, status: int, code: str
) -> None:
    server: FakeServer = fakes["server"]
    server.failure, server.failure_after = failure, 0
    answered = ask(fakes["address"], "/api/generate", ASK)
    error = answered.json["error"]
    assert (answered.status, error["code"], error["message"]) == (status, code, failure.details)
    assert error["title"]
    assert error["hint"]
    assert error["retry_after_s"] == (2.0 if failure.pushback_ms == "2000" else None)
    server.failure_after = 2
    answered = ask(fakes["address"], "/api/generate", ASK)
    assert answered.status == 200
    assert [kind for kind, _ in answered.events] == ["token", "token", "error"]
    assert answered.events[-1][1] == error


def test_without_a_generator_the_page_says_where_it_looked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nowhere = f"127.0.0.1:{taken.getsockname()[1]}"
    with running_playground(nowhere, PLAYGROUND_REQUEST_TIMEOUT_S="1") as (_, address):
        assert ask(address, "/").status == 200
        assert ask(address, "/healthz").status == 200
        error = ask(address, "/api/generate", ASK).json["error"]
    assert error["title"] == "The generator does not answer"
    assert error["message"] == f"Nothing answers at {nowhere}."
