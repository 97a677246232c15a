"""What a product backend can ask, and what it is told when it asks wrongly."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import grpc
import pytest

from pad.v1 import generator_pb2
from pad_client import (
    FinishReason,
    GeneratorClient,
    InvalidRequestError,
    Message,
    MessageTooLargeError,
    NotFoundError,
    PadError,
)
from pad_client.embedded import EmbeddedStack

CHAT = [Message("user", "Can you find me a hotel in Paris for three nights?")]


def test_sixteen_mixed_users_at_once_get_what_each_gets_alone(client: GeneratorClient) -> None:
    wishes = ("Be brief.", "Sound excited!", "Be formal and polite.", "Keep it casual and relaxed.")
    jobs: list[dict[str, Any]] = [
        {
            "messages": [Message("user", f"I need a table for {i + 2} people in San Jose.")],
            "preferences": [wishes[i % 4]] if i % 8 else [wishes[0], wishes[1]],
            "strategy": ("pad", "pad-released", "base", "prompt")[i // 4],
            "beta": 0.5 + i / 10,
            "temperature": 0.0 if i % 2 else 0.8,
            "seed": i,
            "top_k": 5 + i,
            "max_tokens": 16,
        }
        for i in range(16)
    ]

    def ids(job: dict[str, Any]) -> list[int]:
        return [token.token_id for token in client.complete(**job).tokens]

    alone = [ids(job) for job in jobs]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ids, jobs)) == alone


def test_a_stream_tells_each_token_and_then_how_it_came_about(client: GeneratorClient) -> None:
    profile = client.put_profile("stream-user", ["Sound excited!"], beta=1.2)
    with client.generate(
        messages=CHAT, user_id="stream-user", max_tokens=24, detail="candidates", top_k=7
    ) as stream:
        tokens = list(stream)
        summary = stream.summary
    assert [token.index for token in tokens] == list(range(len(tokens)))
    for token in tokens:
        assert token.guided
        assert len(token.candidates) == 7
        best = max(token.candidates, key=lambda c: c.score)
        assert best.token_id == token.token_id
        assert best.score == pytest.approx(best.logprob + 1.2 * best.reward, abs=1e-4)
        assert token.candidates[0].token_id == token.base_token_id
        assert token.changed == (token.token_id != token.base_token_id)
        logprobs = [candidate.logprob for candidate in token.candidates]
        assert all(a >= b for a, b in pairwise(logprobs))
    assert summary is not None
    assert summary.num_tokens == summary.num_guided_tokens == len(tokens)
    assert summary.num_changed_tokens == sum(token.changed for token in tokens)
    assert summary.profile_revision == profile.revision
    assert summary.beta == pytest.approx(1.2)
    assert summary.timings.total_s >= summary.timings.time_to_first_token_s > 0
    assert summary.timings.generator_forward_s > 0
    assert summary.reward_model_version


def test_the_same_seed_gives_the_same_sample_and_another_seed_another(
    client: GeneratorClient,
) -> None:
    def sample(seed: int) -> str:
        return client.complete(
            messages=CHAT, preferences=["Be brief."], temperature=1.5, seed=seed, max_tokens=30
        ).text

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(5)}) > 1


def test_a_stop_string_ends_the_text_before_it(client: GeneratorClient) -> None:
    whole = client.complete(messages=CHAT, max_tokens=30)
    word = whole.text.split()[2]
    stopped = client.complete(messages=CHAT, max_tokens=30, stop=[word])
    assert stopped.text == whole.text[: whole.text.index(word)]
    assert stopped.summary.finish_reason is FinishReason.STOP_STRING


def test_best_of_n_returns_the_sample_with_the_highest_reward(client: GeneratorClient) -> None:
    answer = client.complete(
        messages=CHAT,
        preferences=["Sound excited!"],
        strategy="best-of-n",
        num_samples=5,
        seed=3,
        max_tokens=24,
    )
    rewards = answer.summary.sample_rewards
    assert len(rewards) == 5
    best = max(range(5), key=rewards.__getitem__)
    again = client.complete(
        messages=CHAT, strategy="base", seed=3 + best, temperature=0.7, max_tokens=24
    )
    assert again.text == answer.text


def test_preference_in_the_base_prompt_with_beta_zero_is_the_prompt_strategy(
    client: GeneratorClient,
) -> None:
    shared: dict[str, Any] = {"messages": CHAT, "preferences": ["Be brief."], "max_tokens": 16}
    prompt = client.complete(strategy="prompt", **shared)
    released = client.complete(
        strategy="pad-released", beta=0.0, preference_in_base_prompt=True, **shared
    )
    assert released.text == prompt.text


def test_raw_text_is_continued_as_it_is(client: GeneratorClient) -> None:
    answer = client.complete(prompt="I found a nice", preferences=["Sound excited!"], max_tokens=8)
    assert answer.summary.num_guided_tokens == answer.summary.num_tokens


BAD: list[tuple[str, dict[str, Any], type[PadError], str]] = [
    ("empty prompt", {"prompt": ""}, InvalidRequestError, "prompt: must not be empty"),
    ("no user turn", {"messages": [Message("system", "x")]}, InvalidRequestError, "role user"),
    ("unknown user", {"messages": CHAT, "user_id": "nobody"}, NotFoundError, "'nobody'"),
    ("bad user id", {"messages": CHAT, "user_id": "a b"}, InvalidRequestError, "user_id"),
    ("beta NaN", {"messages": CHAT, "beta": math.nan}, InvalidRequestError, "0..10, got nan"),
    ("beta -1", {"messages": CHAT, "beta": -1.0}, InvalidRequestError, "0..10, got -1"),
    ("k 0", {"messages": CHAT, "top_k": 0}, InvalidRequestError, "top_k: must be 1..100, got 0"),
    ("k > limit", {"messages": CHAT, "top_k": 10**6}, InvalidRequestError, "got 1000000"),
    ("top_p 0", {"messages": CHAT, "top_p": 0.0}, InvalidRequestError, "top_p"),
    ("temperature", {"messages": CHAT, "temperature": 9.0}, InvalidRequestError, "0..5, got 9"),
    ("max_tokens", {"messages": CHAT, "max_tokens": 10**6}, InvalidRequestError, "max_tokens"),
    ("pad for nobody", {"messages": CHAT, "strategy": "pad"}, InvalidRequestError, "pad needs one"),
    ("too long", {"prompt": "word " * 3000}, InvalidRequestError, "prompt: must have at most"),
    (
        "control token",
        {"messages": [Message("user", "hi<|end|>")]},
        InvalidRequestError,
        "control token '<|end|>'",
    ),
    (
        "control token in a wish",
        {"messages": CHAT, "preferences": ["be <|assistant|>"]},
        InvalidRequestError,
        "control token",
    ),
    ("empty stop", {"messages": CHAT, "stop": [""]}, InvalidRequestError, "stop[0]"),
    ("10 MB prompt", {"prompt": "x" * 10_000_000}, MessageTooLargeError, "larger than max"),
]


@pytest.mark.parametrize(
    ("options", "error", "text"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
def test_bad_requests_are_told_field_rule_and_value(
    client: GeneratorClient, options: dict[str, Any], error: type[PadError], text: str
) -> None:
    with pytest.raises(error) as caught:
        client.complete(**options)
    assert text in caught.value.message
    with pytest.raises(error):  # the streaming call says the same
        list(client.generate(**options))


BAD_PROFILES: list[tuple[str, Callable[[GeneratorClient], object], str]] = [
    ("10 MB", lambda c: c.put_profile("u", ["x" * 10_000_000]), "larger than max"),
    ("long wish", lambda c: c.put_profile("u", ["x" * 2001]), "2000"),
    ("no wishes", lambda c: c.put_profile("u", []), "preferences"),
    ("blank wish", lambda c: c.put_profile("u", [" "]), "preferences[0].text"),
    ("beta", lambda c: c.put_profile("u", ["x"], beta=math.inf), "beta"),
]


@pytest.mark.parametrize(
    ("call", "text"), [b[1:] for b in BAD_PROFILES], ids=[b[0] for b in BAD_PROFILES]
)
def test_bad_profiles_are_refused_and_not_stored(
    client: GeneratorClient, call: Callable[[GeneratorClient], object], text: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        call(client)
    assert text in caught.value.message
    with pytest.raises(NotFoundError):
        client.get_profile("u")


def test_invalid_utf8_is_an_invalid_argument(stack: EmbeddedStack) -> None:
    text = b"\xff\xfe"
    generation = bytes([0x0A, len(text)]) + text  # field 1, a string
    request = bytes([0x0A, len(generation)]) + generation
    with grpc.insecure_channel(stack.address) as channel:
        call = channel.unary_unary(
            "/pad.v1.GeneratorService/Complete",
            request_serializer=lambda data: data,
            response_deserializer=generator_pb2.CompleteResponse.FromString,
        )
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "UTF-8" in caught.value.details()


def test_server_info_describes_what_is_served(client: GeneratorClient) -> None:
    info = client.server_info()
    assert info.model_id == "demo-base"
    assert [replica.is_available for replica in info.reward_replicas] == [True]
    assert info.vocabulary_size == 4096
    assert info.max_top_k == 100
