"""Streams as the official client reads them, and their ends before time."""

import asyncio
from collections.abc import Sequence
from typing import Any

import openai
import pytest

from pad_client.embedded import EmbeddedStack
from tests.edge_svc.conftest import MAX_WAITING, NUM_SLOTS, free_slots
from tests.edge_svc.edges import ENDLESS, MODEL, SAY, metric, until

OPTIONS: dict[str, Any] = {"model": MODEL, "messages": SAY, "max_tokens": 24, "temperature": 0}
LONG: dict[str, Any] = {**OPTIONS, "max_tokens": 900, "extra_body": ENDLESS}


def texts(chunks: Sequence[Any], num: int = 1) -> list[str]:
    """Return the text of each choice."""
    whole = [""] * num
    for chunk in chunks:
        for choice in chunk.choices:
            whole[choice.index] += choice.delta.content or ""
    return whole


def test_pieces_make_the_whole_answer(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**OPTIONS, stream=True))
    whole = client.chat.completions.create(**OPTIONS)
    assert texts(chunks) == [whole.choices[0].message.content]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


def test_the_role_comes_first_and_the_reason_last_and_once(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**OPTIONS, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + [reasons[-1]]
    assert reasons[-1] in ("stop", "length")
    assert chunks[-1].choices[0].delta.content is None
    assert len(chunks) > 3  # not the whole answer at once


def test_usage_ends_a_stream_that_asks_for_it(client: openai.OpenAI) -> None:
    asked = client.chat.completions.create(
        **OPTIONS, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(asked)
    assert last.choices == []
    assert last.usage == client.chat.completions.create(**OPTIONS).usage
    assert all(chunk.usage is None for chunk in chunks)
    unasked = list(client.chat.completions.create(**OPTIONS, stream=True))
    assert all("usage" not in chunk.model_fields_set for chunk in unasked)
    assert all(chunk.choices for chunk in unasked)


def test_choices_of_a_stream_are_those_of_the_whole_answer(client: openai.OpenAI) -> None:
    options = {**OPTIONS, "temperature": 1, "seed": 9, "n": 3}
    chunks = list(client.chat.completions.create(**options, stream=True))
    whole = client.chat.completions.create(**options)
    assert texts(chunks, 3) == [choice.message.content for choice in whole.choices]
    ends = [chunk.choices[0].index for chunk in chunks if chunk.choices[0].finish_reason]
    assert sorted(ends) == [0, 1, 2]


def test_a_raw_completion_streams(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": MODEL, "prompt": "Hello", "temperature": 0}
    chunks = list(client.completions.create(**options, stream=True))
    whole = client.completions.create(**options)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert {chunk.object for chunk in chunks} == {"text_completion"}


def test_a_stop_string_never_shows_in_a_stream(client: openai.OpenAI) -> None:
    text = client.chat.completions.create(**OPTIONS).choices[0].message.content or ""
    stop = text[6:12]  # spans tokens: its beginning must be held back
    chunks = list(client.chat.completions.create(**OPTIONS, stop=stop, stream=True))
    assert texts(chunks) == [text[: text.index(stop)]]
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_the_asynchronous_client_streams(async_client: openai.AsyncOpenAI) -> None:
    stream = await async_client.chat.completions.create(**OPTIONS, stream=True)
    chunks = [chunk async for chunk in stream]
    whole = await async_client.chat.completions.create(**OPTIONS)
    assert texts(chunks) == [whole.choices[0].message.content]


async def test_answers_beside_each_other_are_those_of_each_alone(
    async_client: openai.AsyncOpenAI,
) -> None:
    create = async_client.chat.completions.create

    async def ask(seed: int) -> str | None:
        options = {**OPTIONS, "temperature": 1, "seed": seed, "max_tokens": 12}
        return (await create(**options)).choices[0].message.content

    num = NUM_SLOTS + MAX_WAITING
    together = await asyncio.gather(*map(ask, range(num)))
    assert together == [await ask(seed) for seed in range(num)]


def test_an_error_before_the_first_token_is_a_status_in_a_stream_too(
    client: openai.OpenAI,
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**OPTIONS, top_p=0, stream=True)
    assert caught.value.param == "top_p"


def test_an_error_in_the_middle_ends_the_stream_with_it(
    client: openai.OpenAI, stack: EmbeddedStack, idle: None
) -> None:
    extra = {"pad": {**ENDLESS["pad"], "timeout_s": 0.4}}
    edge = stack.metrics_addresses["edge"]
    before = metric(edge, "pad_edge_broken_streams_total")
    chunks = []
    with pytest.raises(openai.APIError) as caught:  # noqa: PT012 - the stream is what raises
        options = {**LONG, "extra_body": extra}
        for chunk in client.chat.completions.create(**options, stream=True):
            chunks.append(chunk)  # noqa: PERF402 - what came before the error counts
    assert texts(chunks) != [""]
    assert caught.value.code == "timeout"
    assert caught.value.type == "server_error"
    assert metric(edge, "pad_edge_broken_streams_total") == before + 1


def test_closing_a_stream_frees_its_row_at_once(
    client: openai.OpenAI, stack: EmbeddedStack, idle: None
) -> None:
    ended = 'pad_answers_total{reason="length"}'
    generator = stack.metrics_addresses["generator"]
    before = metric(generator, ended)
    stream = client.chat.completions.create(**LONG, stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    until(lambda: free_slots(stack) == NUM_SLOTS - 1)
    stream.close()
    until(lambda: free_slots(stack) == NUM_SLOTS)
    assert metric(generator, ended) == before  # it was not written to its end


async def test_cancelling_a_whole_answer_frees_all_its_rows(
    async_client: openai.AsyncOpenAI, stack: EmbeddedStack, idle: None
) -> None:
    ended = 'pad_answers_total{reason="length"}'
    generator = stack.metrics_addresses["generator"]
    before = metric(generator, ended)
    asked = asyncio.create_task(async_client.chat.completions.create(**LONG, n=3))
    await asyncio.to_thread(until, lambda: free_slots(stack) == NUM_SLOTS - 3)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await asyncio.to_thread(until, lambda: free_slots(stack) == NUM_SLOTS)
    assert metric(generator, ended) == before  # none was written to its end
    hung_up = 'pad_edge_requests_total{route="/v1/chat/completions",status="499"}'
    assert metric(stack.metrics_addresses["edge"], hung_up) >= 1


async def test_a_caller_that_waits_for_a_row_can_hang_up(
    async_client: openai.AsyncOpenAI, stack: EmbeddedStack, idle: None
) -> None:
    create = async_client.chat.completions.create
    running = [await create(**LONG, stream=True) for _ in range(NUM_SLOTS)]
    waiting = asyncio.create_task(create(**LONG, stream=True))
    edge = stack.metrics_addresses["edge"]
    await asyncio.to_thread(
        until, lambda: metric(edge, "pad_edge_requests_in_work") == NUM_SLOTS + 1
    )
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.to_thread(until, lambda: metric(edge, "pad_edge_requests_in_work") == NUM_SLOTS)
    for stream in running:
        await stream.close()


async def test_what_there_is_no_room_for_is_refused_with_a_delay(
    async_client: openai.AsyncOpenAI, idle: None
) -> None:
    create = async_client.chat.completions.create
    running = [await create(**LONG, stream=True) for _ in range(NUM_SLOTS)]
    num = MAX_WAITING + 1
    waiting = [asyncio.create_task(create(**LONG, stream=True)) for _ in range(num)]
    (refused,), _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    error = refused.exception()
    assert isinstance(error, openai.RateLimitError)
    assert error.code == "overloaded"
    headers = error.response.headers
    assert int(headers["retry-after"]) >= 1
    assert int(headers["retry-after-ms"]) >= 1
    assert headers["x-should-retry"] == "true"
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for stream in running:
        await stream.close()
