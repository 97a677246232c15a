"""Whole answers through the official client."""

from typing import Any

import openai
import pytest

from pad_client import GeneratorClient
from tests.edge_svc.edges import MODEL, SAY

MAX_TOKENS = 24
CONTEXT_LENGTH = 1024


def ask(client: openai.OpenAI, **options: Any) -> Any:
    options = {"max_tokens": MAX_TOKENS, "temperature": 0, "messages": SAY, **options}
    return client.chat.completions.create(model=MODEL, **options)


def write(client: openai.OpenAI, **options: Any) -> Any:
    options = {"max_tokens": 8, "temperature": 0, "prompt": "Hello", **options}
    return client.completions.create(model=MODEL, **options)


def test_models_are_listed_and_found_by_their_id(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert client.models.retrieve(MODEL) == model
    with pytest.raises(openai.NotFoundError, match="model: must be 'demo-base', got 'gpt-4'"):
        client.models.retrieve("gpt-4")


def test_a_chat_is_answered_as_the_generator_answers_it(
    client: openai.OpenAI, pad: GeneratorClient
) -> None:
    answer = ask(client)
    direct = pad.complete(messages=SAY, temperature=0, max_tokens=MAX_TOKENS)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == MODEL
    assert answer.system_fingerprint == pad.server_info().model_version
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == direct.text
    assert choice.pad["summary"]["strategy"] == "base"


def test_a_raw_prompt_is_continued(client: openai.OpenAI, pad: GeneratorClient) -> None:
    answer = write(client)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.choices[0].text == pad.complete(prompt="Hello", max_tokens=8).text


async def test_the_asynchronous_client_gets_the_same_answer(
    client: openai.OpenAI, async_client: openai.AsyncOpenAI
) -> None:
    answer = await async_client.chat.completions.create(
        model=MODEL, messages=SAY, temperature=0, max_tokens=MAX_TOKENS
    )
    assert answer.choices[0].message.content == ask(client).choices[0].message.content


def test_usage_counts_the_prompt_and_what_was_written(
    client: openai.OpenAI, pad: GeneratorClient
) -> None:
    usage = ask(client).usage
    summary = pad.complete(messages=SAY, temperature=0, max_tokens=MAX_TOKENS).summary
    assert usage.prompt_tokens == summary.num_prompt_tokens
    assert usage.completion_tokens == summary.num_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_length_ends_an_answer_and_says_so(client: openai.OpenAI) -> None:
    answer = ask(client, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_the_end_of_the_turn_is_a_stop(client: openai.OpenAI) -> None:
    choice = ask(client, max_tokens=200).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.pad["summary"]["finish_reason"] == "end-of-turn"


@pytest.mark.parametrize("as_list", [False, True])
def test_a_stop_string_ends_an_answer_before_itself(client: openai.OpenAI, as_list: bool) -> None:
    text = ask(client).choices[0].message.content
    stop = text[5:9]
    choice = ask(client, stop=["\0never", stop] if as_list else stop).choices[0]
    assert choice.message.content == text[: text.index(stop)]
    assert choice.finish_reason == "stop"
    assert choice.pad["summary"]["finish_reason"] == "stop-string"


def test_max_completion_tokens_is_the_newer_name_of_max_tokens(client: openai.OpenAI) -> None:
    answer = ask(client, max_tokens=openai.omit, max_completion_tokens=2)
    assert answer.usage.completion_tokens == 2


def test_limits_not_given_are_those_of_the_openai_api(client: openai.OpenAI) -> None:
    endless = {"pad": {"ignore_end_of_turn": True}}
    completion = client.completions.create(model=MODEL, prompt="Hello", extra_body=endless)
    assert completion.usage.completion_tokens == 16
    long = [{"role": "user", "content": "I need a bus to Sacramento. " * 120}]
    chat = client.chat.completions.create(model=MODEL, messages=long, extra_body=endless)
    assert chat.usage.completion_tokens > 128
    assert chat.usage.total_tokens == CONTEXT_LENGTH


def test_a_seed_repeats_an_answer_and_is_told(client: openai.OpenAI) -> None:
    first = ask(client, temperature=1, seed=7).choices[0]
    again = ask(client, temperature=1, seed=7).choices[0]
    assert again.message.content == first.message.content
    assert first.pad["summary"]["seed"] == 7
    others = {ask(client, temperature=1, seed=s).choices[0].message.content for s in range(5)}
    assert len(others) > 1


def test_a_seed_that_was_not_given_is_told_and_repeats_the_answer(client: openai.OpenAI) -> None:
    first = ask(client, temperature=1).choices[0]
    seed = first.pad["summary"]["seed"]
    assert 0 <= seed < 1 << 53
    assert ask(client, temperature=1, seed=seed).choices[0].message == first.message


def test_a_negative_seed_stands_for_its_64_bits(client: openai.OpenAI) -> None:
    first = ask(client, temperature=1, seed=-1).choices[0]
    assert first.pad["summary"]["seed"] == (1 << 64) - 1
    again = ask(client, temperature=1, seed=(1 << 64) - 1).choices[0]
    assert again.message == first.message


def test_n_choices_have_seeds_of_their_own_that_repeat_each(client: openai.OpenAI) -> None:
    answer = ask(client, temperature=1, n=3, seed=100)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    seeds = [choice.pad["summary"]["seed"] for choice in answer.choices]
    assert seeds == [100, 116, 132]
    assert len({choice.message.content for choice in answer.choices}) > 1
    for seed, choice in zip(seeds, answer.choices, strict=True):
        assert ask(client, temperature=1, seed=seed).choices[0].message == choice.message
    written = sum(choice.pad["summary"]["num_tokens"] for choice in answer.choices)
    assert answer.usage.completion_tokens == written
    assert answer.usage.prompt_tokens == ask(client).usage.prompt_tokens


def test_several_prompts_are_answered_in_their_order(client: openai.OpenAI) -> None:
    answer = write(client, prompt=["Hello", "I need a bus"], n=2, temperature=1, seed=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    alone = write(client, prompt="I need a bus", n=2, temperature=1, seed=3)
    assert [each.text for each in answer.choices[2:]] == [each.text for each in alone.choices]
    first = write(client).usage.prompt_tokens
    assert answer.usage.prompt_tokens == first + alone.usage.prompt_tokens


def test_temperature_not_given_samples_as_the_openai_api_does(client: openai.OpenAI) -> None:
    sampled = ask(client, temperature=openai.omit, seed=11).choices[0].message
    assert sampled == ask(client, temperature=1, seed=11).choices[0].message


def test_top_p_that_leaves_one_token_is_greedy(client: openai.OpenAI) -> None:
    narrow = ask(client, temperature=1, top_p=1e-9, seed=5).choices[0].message
    assert narrow == ask(client).choices[0].message


def test_text_parts_are_lines_and_developer_is_system(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "Can you"}, {"type": "text", "text": "help?"}]
    whole = [
        {"role": "system", "content": "Book things."},
        {"role": "user", "content": "Can you\nhelp?"},
    ]
    apart = [
        {"role": "developer", "content": "Book things."},
        {"role": "user", "content": parts},
    ]
    assert ask(client, messages=apart).choices[0].message == (
        ask(client, messages=whole).choices[0].message
    )


def test_an_answer_can_be_sent_back_as_it_came(client: openai.OpenAI) -> None:
    first = ask(client).choices[0].message
    conversation = [*SAY, first, {"role": "user", "content": "Yes, please."}]
    answer = ask(client, messages=conversation)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.prompt_tokens > ask(client).usage.prompt_tokens


def test_texts_of_all_scripts_arrive_whole(client: openai.OpenAI, pad: GeneratorClient) -> None:
    text = "Grüße 🙂 日本語 \u202e\u05e2\u05d1\u202c e\u0301 \u0000 naïve"
    chat = [{"role": "user", "content": text}]
    direct = pad.complete(messages=chat, temperature=0, max_tokens=MAX_TOKENS)
    answer = ask(client, messages=chat)
    assert answer.usage.prompt_tokens == direct.summary.num_prompt_tokens
    assert answer.choices[0].message.content == direct.text


def test_a_long_prompt_is_read_whole(client: openai.OpenAI, pad: GeneratorClient) -> None:
    prompt = "I need a bus to Sacramento. " * 100
    answer = write(client, prompt=prompt)
    direct = pad.complete(prompt=prompt, max_tokens=8)
    assert answer.usage.prompt_tokens == direct.summary.num_prompt_tokens > 500
    assert answer.choices[0].text == direct.text


def test_fields_that_ask_for_nothing_are_no_obstacle(client: openai.OpenAI) -> None:
    neutral = ask(
        client,
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        response_format={"type": "text"},
        tools=[],
        tool_choice="none",
        modalities=["text"],
        service_tier="auto",
        store=False,
        n=None,
        stop=None,
    )
    assert neutral.choices[0].message == ask(client).choices[0].message
