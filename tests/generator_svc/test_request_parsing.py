"""Every rule of GenerateRequest, at the door; e2e/test_requests.py sees them over the wire."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generator_svc.decoding.strategies import STRATEGIES, Reference
from generator_svc.engine.fair_line import Priority
from generator_svc.request_parsing import STRATEGY_NAMES, RequestLimits, parse_request
from pad.v1 import common_pb2, generator_pb2
from svc_common.errors import InvalidRequestError

LIMITS = RequestLimits(max_tokens=64, max_top_k=50, max_turns=100)


def request(**fields: Any) -> generator_pb2.GenerateRequest:
    return generator_pb2.GenerateRequest(**{"prompt": "hello", **fields})


def personal(**fields: Any) -> generator_pb2.GenerateRequest:
    return request(preferences=[common_pb2.Preference(text="Be brief.")], **fields)


def test_defaults_are_those_of_the_contract() -> None:
    parsed = parse_request(request(), LIMITS)
    assert parsed.strategy is STRATEGIES["base"]
    assert (parsed.top_k, parsed.temperature, parsed.top_p) == (10, 0.0, 1.0)
    assert (parsed.beta, parsed.seed, parsed.max_tokens) == (None, None, 64)
    assert not any((parsed.falls_back, parsed.prompts_base, parsed.wants_candidates))
    assert parsed.priority is Priority.INTERACTIVE
    batch = parse_request(request(priority=generator_pb2.PRIORITY_BATCH), LIMITS)
    assert batch.priority is Priority.BATCH
    guided = parse_request(personal(), LIMITS)
    assert guided.strategy is STRATEGIES["pad"]
    assert guided.reference is Reference.BACKBONE
    assert guided.preferences[0].weight == 1.0
    best = parse_request(personal(strategy=generator_pb2.STRATEGY_BEST_OF_N), LIMITS)
    assert (best.num_samples, best.temperature) == (4, 0.7)


def test_every_strategy_of_the_contract_is_a_row_of_the_table() -> None:
    assert set(STRATEGY_NAMES.values()) == set(STRATEGIES)
    assert set(STRATEGY_NAMES) | {0} == set(generator_pb2.Strategy.values())


def test_zero_is_a_value_and_not_absence() -> None:
    parsed = parse_request(personal(beta=0.0, seed=0, temperature=0.0), LIMITS)
    assert (parsed.beta, parsed.seed) == (0.0, 0)
    best = personal(strategy=generator_pb2.STRATEGY_BEST_OF_N, temperature=0.0)
    assert parse_request(best, LIMITS).temperature == 0.0


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (generator_pb2.GenerateRequest(), "prompt, chat: one must be set"),
        (request(prompt=""), "prompt: must not be empty"),
        (
            personal(reference=common_pb2.REFERENCE_MODE_BASE, strategy=2),
            "strategy prompt has its own",
        ),
        (personal(reference=9), "reference: must be a known value, got 9"),
        (request(strategy=99), "strategy: must be a known value, got 99"),
        (request(fallback=7), "fallback: must be a known value, got 7"),
        (request(detail=7), "detail: must be a known value, got 7"),
        (request(num_samples=2), "num_samples: is for strategy best-of-n alone"),
        (personal(strategy=5, num_samples=17), "num_samples: must be 1..16, got 17"),
        (request(top_k=51), "top_k: must be 1..50, got 51"),
        (request(max_tokens=0), "max_tokens: must be 1..64, got 0"),
        (request(top_p=1.5), "top_p: must be > 0 and <= 1, got 1.5"),
        (request(stop=["x"] * 9), "stop: must hold at most 8, got 9"),
        (request(stop=["x" * 101]), "stop[0]: must have 1..100 characters, got 101"),
        (request(preference_in_base_prompt=True, strategy=1), "needs one of them, got neither"),
        (request(preference_in_base_prompt=True), "needs one of them, got neither"),
    ],
)
def test_a_broken_rule_is_told_with_field_rule_and_value(
    message: generator_pb2.GenerateRequest, text: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(message, LIMITS)
    assert text in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(
    st.builds(
        generator_pb2.GenerateRequest,
        prompt=st.text(max_size=5),
        user_id=st.text(max_size=5),
        beta=st.none() | st.floats(),
        top_k=st.none() | st.integers(0, 2**32 - 1),
        temperature=st.none() | st.floats(),
        top_p=st.none() | st.floats(),
        seed=st.none() | st.integers(0, 2**64 - 1),
        max_tokens=st.none() | st.integers(0, 2**32 - 1),
        stop=st.lists(st.text(max_size=3), max_size=3),
        strategy=st.integers(0, 7),
        reference=st.integers(0, 4),
        num_samples=st.none() | st.integers(0, 20),
    )
)
def test_any_message_is_parsed_or_refused(message: generator_pb2.GenerateRequest) -> None:
    try:
        parsed = parse_request(message, LIMITS)
    except InvalidRequestError:
        return
    assert 1 <= parsed.top_k <= 50
    assert 0 < parsed.top_p <= 1
    assert parsed.beta is None or 0 <= parsed.beta <= 10


def test_a_conversation_of_too_many_turns_is_refused_before_they_are_looked_at() -> None:
    """A message of 1 MB, all of it empty turns, held up all other callers for 1.7 s."""
    empty = [common_pb2.ChatMessage()] * 101
    chat = generator_pb2.GenerateRequest(chat=common_pb2.Chat(messages=empty))
    with pytest.raises(
        InvalidRequestError, match=r"chat\.messages: must hold at most 100, got 101"
    ):
        parse_request(chat, LIMITS)
    user = [common_pb2.ChatMessage(role="user", content="a")] * 100
    parsed = parse_request(
        generator_pb2.GenerateRequest(chat=common_pb2.Chat(messages=user)), LIMITS
    )
    assert len(parsed.prompt) == 100
