"""What the OpenAI API has no field for: profiles, preferences, rewards, log-probabilities."""

import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from pad_client import Detail, GeneratorClient
from tests.edge_svc.edges import MODEL, SAY

USER = "edge:alice"
WISH = "Be brief."


@pytest.fixture(scope="module")
def user(pad: GeneratorClient) -> Iterator[str]:
    pad.put_profile(USER, [WISH], beta=1.5)
    yield USER
    pad.delete_profile(USER)


def ask(client: openai.OpenAI, pad: dict[str, Any] | None = None, **options: Any) -> Any:
    options = {"max_tokens": 24, "temperature": 0, "messages": SAY, **options}
    extra = {} if pad is None else {"pad": pad}
    return client.chat.completions.create(model=MODEL, extra_body=extra, **options)


def test_a_user_is_answered_by_their_profile(
    client: openai.OpenAI, pad: GeneratorClient, user: str
) -> None:
    direct = pad.complete(messages=SAY, user_id=user, temperature=0, max_tokens=24)
    choice = ask(client, user=user).choices[0]
    assert choice.message.content == direct.text
    summary = choice.pad["summary"]
    assert summary["strategy"] == "pad"
    assert summary["beta"] == 1.5
    assert summary["profile_revision"] == direct.summary.profile_revision > 0
    assert summary["num_changed_tokens"] == direct.summary.num_changed_tokens > 0
    assert not summary["is_profile_missing"]


def test_preferences_of_a_request_stand_in_place_of_the_profile(
    client: openai.OpenAI, pad: GeneratorClient, user: str
) -> None:
    wishes = ["Be formal.", {"text": "Be brief.", "weight": 2.5}]
    choice = ask(client, {"preferences": wishes, "beta": 2}, user=user).choices[0]
    plain = ask(client, {"preferences": wishes, "beta": 2}).choices[0]
    assert choice.message == plain.message
    assert choice.pad["summary"]["profile_revision"] == 0
    assert choice.pad["summary"]["beta"] == 2


def test_beta_0_is_the_base_model(client: openai.OpenAI, user: str) -> None:
    choice = ask(client, {"beta": 0}, user=user).choices[0]
    assert choice.message == ask(client).choices[0].message
    assert choice.pad["summary"]["num_changed_tokens"] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "prompt"},
        {"strategy": "pad-released", "top_k": 5},
        {"strategy": "pad", "reference": "base", "fallback": "unguided"},
        {"strategy": "best-of-n", "num_samples": 2},
        {"preference_in_base_prompt": True},
    ],
    ids=str,
)
def test_options_reach_the_generator(
    client: openai.OpenAI, pad: GeneratorClient, options: dict[str, Any]
) -> None:
    choice = ask(client, {**options, "preferences": [WISH]}, temperature=0.7, seed=3).choices[0]
    direct = pad.complete(
        messages=SAY, preferences=[WISH], temperature=0.7, seed=3, max_tokens=24, **options
    )
    assert choice.message.content == direct.text
    assert choice.pad["summary"]["strategy"] == direct.summary.strategy
    assert len(choice.pad["summary"]["sample_rewards"]) == options.get("num_samples", 0)


def test_samples_of_choices_are_never_the_same_ones(client: openai.OpenAI) -> None:
    options = {"strategy": "best-of-n", "num_samples": 3, "preferences": [WISH]}
    answer = ask(client, options, temperature=1, n=2, seed=50)
    first, second = (choice.pad["summary"]["sample_rewards"] for choice in answer.choices)
    assert not set(first) & set(second)


def test_details_say_what_the_profile_did_to_each_token(
    client: openai.OpenAI, pad: GeneratorClient
) -> None:
    direct = pad.complete(messages=SAY, preferences=[WISH], temperature=0, max_tokens=24)
    choice = ask(client, {"preferences": [WISH], "details": True}).choices[0]
    told = choice.pad["tokens"]
    assert "".join(each["text"] for each in told) == choice.message.content
    for each, token in zip(told, direct.tokens, strict=True):
        names = ("index", "token_id", "logprob", "reward", "guided", "changed", "base_text")
        assert [each[name] for name in names] == [getattr(token, name) for name in names]
    assert any(each["changed"] for each in told)


@pytest.mark.parametrize("stream", [False, True])
def test_an_explained_answer_says_which_wish_changed_which_token(
    client: openai.OpenAI, pad: GeneratorClient, stream: bool
) -> None:
    direct = pad.explain(messages=SAY, preferences=[WISH, "Be kind."], temperature=0, max_tokens=24)
    answer = ask(client, {"preferences": [WISH, "Be kind."], "explain": True}, stream=stream)
    chunks = list(answer) if stream else [answer]
    pads = [its.pad for chunk in chunks for its in chunk.choices if hasattr(its, "pad")]
    told = [token for each in pads for token in each.get("tokens", [])]
    by = [token["explanation"]["changed_by"] for token in told]
    assert by == [t.explanation.changed_by for t in direct.tokens if t.explanation is not None]
    assert {0, None} <= set(by)
    its = direct.summary.explanation
    assert its is not None
    shown = pads[-1]["summary"]["explanation"]["preferences"]
    assert [each["num_changed_tokens"] for each in shown] == [
        each.num_changed_tokens for each in its.preferences
    ]


def test_an_explanation_is_refused_beside_logprobs_and_left_out_without_a_profile(
    client: openai.OpenAI,
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, {"preferences": [WISH], "explain": True}, logprobs=True)
    assert caught.value.param == "pad.explain"
    options = {"explain": True, "if_no_profile": "base"}
    choice = ask(client, options, user="nobody").choices[0]
    assert choice.pad["summary"]["is_profile_missing"]
    assert "explanation" not in choice.pad["summary"]


def test_details_come_with_each_piece_of_a_stream(client: openai.OpenAI) -> None:
    options = {"preferences": [WISH], "details": True}
    whole = ask(client, options).choices[0]
    chunks = list(ask(client, options, stream=True))
    pads = [choice.pad for chunk in chunks for choice in chunk.choices if hasattr(choice, "pad")]
    told = [token for pad in pads for token in pad.get("tokens", [])]
    assert told == whole.pad["tokens"]
    assert pads[-1]["summary"]["num_changed_tokens"] == whole.pad["summary"]["num_changed_tokens"]


def test_without_details_an_answer_carries_none(client: openai.OpenAI) -> None:
    assert set(ask(client, {"preferences": [WISH]}).choices[0].pad) == {"summary"}


def test_a_user_without_a_profile_is_an_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, user="nobody")
    assert (caught.value.code, caught.value.param) == ("profile_not_found", "user")
    assert "user: must have a profile" in caught.value.message


@pytest.mark.parametrize("stream", [False, True])
def test_a_user_without_a_profile_gets_the_base_model_where_that_is_wanted(
    client: openai.OpenAI, stream: bool
) -> None:
    options = {"if_no_profile": "base", "strategy": "best-of-n", "num_samples": 2, "beta": 2.0}
    answer = ask(client, options, user="nobody", stream=stream, n=2)
    choices = [each for chunk in answer for each in chunk.choices] if stream else answer.choices
    ends = [choice for choice in choices if choice.finish_reason]
    assert len(ends) == 2
    for choice in ends:
        assert choice.pad["summary"]["is_profile_missing"]
        assert choice.pad["summary"]["strategy"] == "base"
    if not stream:
        assert choices[0].message == ask(client).choices[0].message


def test_logprobs_of_a_chat_are_the_base_models(
    client: openai.OpenAI, pad: GeneratorClient
) -> None:
    choice = ask(client, {"preferences": [WISH]}, logprobs=True, top_logprobs=3).choices[0]
    direct = pad.complete(
        messages=SAY,
        preferences=[WISH],
        temperature=0,
        max_tokens=24,
        detail=Detail.CANDIDATES,
    )
    for entry, token in zip(choice.logprobs.content, direct.tokens, strict=True):
        assert entry.logprob == token.logprob
        best = [(each.text, each.logprob) for each in token.candidates[:3]]
        assert [(each.token, each.logprob) for each in entry.top_logprobs] == best
        assert bytes(entry.bytes).decode() == entry.token
    text = "".join(entry.token for entry in choice.logprobs.content)
    assert text.removesuffix("<|end|>") == choice.message.content


def test_logprobs_without_candidates_tell_the_token_alone(client: openai.OpenAI) -> None:
    choice = ask(client, logprobs=True).choices[0]
    assert all(entry.top_logprobs == [] for entry in choice.logprobs.content)
    assert all(entry.logprob <= 0 for entry in choice.logprobs.content)
    assert ask(client).choices[0].logprobs is None


def test_parts_of_characters_have_no_bytes(client: openai.OpenAI) -> None:
    chat = [{"role": "user", "content": "日本語"}]
    options = {"top_k": 100, "ignore_end_of_turn": True}
    choice = ask(
        client, options, messages=chat, temperature=5, seed=1, logprobs=True, max_tokens=60
    ).choices[0]
    for entry in choice.logprobs.content:
        assert (entry.bytes is None) == ("\ufffd" in entry.token)


def test_logprobs_come_with_each_piece_of_a_stream(client: openai.OpenAI) -> None:
    whole = ask(client, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    chunks = list(ask(client, logprobs=True, top_logprobs=2, stream=True))
    told = [
        entry
        for chunk in chunks
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert told == whole


def test_logprobs_of_a_raw_completion(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": MODEL, "prompt": "Hello", "temperature": 0, "logprobs": 2}
    choice = client.completions.create(**options).choices[0]
    told = choice.logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.text_offset is not None
    assert told.top_logprobs is not None
    assert told.token_logprobs == [max(each.values()) for each in told.top_logprobs]  # greedy
    for token, offset in zip(told.tokens, told.text_offset, strict=True):
        assert token == "<|end|>" or choice.text[offset:].startswith(token)
    chunks = list(client.completions.create(**options, stream=True))
    offsets = [
        at for c in chunks if c.choices[0].logprobs for at in c.choices[0].logprobs.text_offset
    ]
    assert offsets == told.text_offset
    assert math.isclose(
        sum(told.token_logprobs), sum(map(max, (d.values() for d in told.top_logprobs)))
    )


def test_more_candidates_than_are_scored_is_an_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"at most pad\.top_k, which is 10, got 20"):
        ask(client, logprobs=True, top_logprobs=20)
    choice = ask(client, {"top_k": 20}, logprobs=True, top_logprobs=20).choices[0]
    assert all(len(entry.top_logprobs) == 20 for entry in choice.logprobs.content)
