"""What is left of the list in docs/openai-conformance.md, and that each of its tests is there."""

import asyncio
import json
import time
from typing import Any

import openai
import pytest

from docs.openai_conformance import CASES
from pad_client.embedded import EmbeddedStack
from tests.edge_svc.conftest import NUM_SLOTS, free_slots
from tests.edge_svc.edges import ENDLESS, MODEL, ROOT, SAY, until

CHAT: dict[str, Any] = {"model": MODEL, "messages": SAY, "max_tokens": 12, "temperature": 0}
RAW: dict[str, Any] = {"model": MODEL, "prompt": "Hello", "max_tokens": 8, "temperature": 0}
LONG: dict[str, Any] = {**CHAT, "max_tokens": 900, "extra_body": ENDLESS}


def test_each_case_of_the_list_has_its_tests() -> None:
    names = [case.what for case in CASES]
    assert len(names) == len(set(names)) >= 30
    for case in CASES:
        assert case.tests
        for test in case.tests:
            path, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), test


def test_ids_differ_and_created_is_the_time(client: openai.OpenAI) -> None:
    began = int(time.time())
    answers: list[Any] = [client.chat.completions.create(**CHAT) for _ in range(2)]
    answers += [client.completions.create(**RAW) for _ in range(2)]
    answers += [next(iter(client.chat.completions.create(**CHAT, stream=True)))]
    assert len({answer.id for answer in answers}) == len(answers)
    assert [answer.id.partition("-")[0] for answer in answers] == [
        *("chatcmpl", "chatcmpl", "cmpl", "cmpl", "chatcmpl")
    ]
    assert all(began <= answer.created <= time.time() for answer in answers)


@pytest.mark.parametrize("field", [{"echo": True}, {"suffix": "the end"}, {"best_of": 2}], ids=str)
def test_raw_completions_refuse_what_they_cannot_do(
    client: openai.OpenAI, field: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**RAW, **field)
    assert caught.value.code == "unsupported_parameter"
    assert caught.value.param == next(iter(field))


def test_raw_completions_honour_n_stop_seed_and_usage_of_a_stream(client: openai.OpenAI) -> None:
    options = {**RAW, "temperature": 1, "seed": 4, "n": 2}
    whole = client.completions.create(**options)
    *chunks, last = client.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    texts = ["", ""]
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert last.usage == whole.usage
    text = client.completions.create(**RAW).choices[0].text
    stopped = client.completions.create(**RAW, stop=["\0never", text[3:6]]).choices[0]
    assert stopped.text == text[: text.index(text[3:6])]
    assert stopped.finish_reason == "stop"


def test_usage_of_a_stream_counts_all_choices(client: openai.OpenAI) -> None:
    options = {**CHAT, "temperature": 1, "seed": 4, "n": 3}
    *_, last = client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    assert last.usage == client.chat.completions.create(**options).usage


def test_a_stream_is_server_sent_events_to_the_letter(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        body = b"".join(response.iter_bytes()).decode()
    *events, done, end = body.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    for event in events:
        assert json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk"


def test_the_clients_own_stream_helper_puts_the_answer_together(client: openai.OpenAI) -> None:
    options = {**CHAT, "max_tokens": 200}  # to the end of the turn: a cut answer is an error there
    whole = client.chat.completions.create(**options).choices[0]
    with client.chat.completions.stream(**options) as stream:
        kinds = {event.type for event in stream}
        choice = stream.get_final_completion().choices[0]
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert choice.message.content == whole.message.content
    assert choice.finish_reason == whole.finish_reason


def test_an_answer_over_its_time_is_a_timeout(client: openai.OpenAI, idle: None) -> None:
    extra = {"pad": {**ENDLESS["pad"], "timeout_s": 0.2}}
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(**{**LONG, "extra_body": extra})
    assert (caught.value.status_code, caught.value.code) == (504, "timeout")
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_a_client_that_waits_no_longer_frees_its_row(
    client: openai.OpenAI, stack: EmbeddedStack, idle: None
) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(**LONG, timeout=0.3)
    until(lambda: free_slots(stack) == NUM_SLOTS)


async def test_leaving_an_asynchronous_stream_frees_its_row(
    async_client: openai.AsyncOpenAI, stack: EmbeddedStack, idle: None
) -> None:
    stream = await async_client.chat.completions.create(**LONG, stream=True)
    async with stream:
        await anext(aiter(stream))
        await asyncio.to_thread(until, lambda: free_slots(stack) == NUM_SLOTS - 1)
    await asyncio.to_thread(until, lambda: free_slots(stack) == NUM_SLOTS)
