"""What the client checks itself, and its words against those of the contract."""

from collections.abc import Callable
from functools import partial
from typing import Any, get_type_hints

import pytest

from pad.v1 import common_pb2, generator_pb2
from pad_client import (
    Detail,
    FallbackPolicy,
    FinishReason,
    GenerateOptions,
    InvalidRequestError,
    Message,
    Preference,
    Priority,
    ReferenceMode,
    Strategy,
)
from pad_client.enums import enum_member
from pad_client.requests import (
    build_request,
    delete_profile_request,
    get_profile_request,
    profile_history_request,
    put_profile_request,
    restore_profile_request,
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "prompt, messages: exactly one"),
        ({"prompt": "a", "messages": []}, "prompt, messages: exactly one"),
        ({"prompt": "a", "preferences": "Be brief."}, "preferences: must be a list"),
        (
            {"prompt": "a", "preferences": ["a", {"text": "b"}]},
            r"preferences\[1\]: must be a string or a Preference, got dict",
        ),
        ({"prompt": "a", "stop": "x"}, "stop: must be a list"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\]: .* exactly role and content, got keys"),
        ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "exactly role and content"),
        ({"messages": ["a"]}, r"messages\[0\]: must be a Message, or a mapping .*, got str"),
        ({"messages": {"role": "user", "content": "a"}}, r"messages\[0\]: must be a Message"),
        ({"messages": [Message("user", None)]}, r"messages\[0\].content: .* string, got NoneType"),
        (
            {"messages": [{"role": 1, "content": ""}]},
            r"messages\[0\].role: must be a string, got int",
        ),
        ({"prompt": "a", "top_k": -1}, "top_k: out of the field's range, got -1"),
        ({"prompt": "a", "seed": 2**64}, "seed: out of the field's range"),
        ({"prompt": "a", "beta": "1"}, "beta: must be a number of its type, got str"),
        ({"prompt": "a", "top_k": 1.5}, "top_k: must be a number of its type, got float"),
        (
            {"prompt": "a", "preferences": [Preference("a", None)]},
            r"preferences\[0\].weight: must be a number of its type, got NoneType",
        ),
        ({"prompt": "a\ud83d"}, "prompt: must not hold half a character, has one at 1"),
        ({"messages": [Message("user", "\udcff")]}, r"messages\[0\].content: must not hold half"),
        ({"prompt": "a", "preferences": ["\ud83d"]}, r"preferences\[0\]: must not hold half"),
        (
            {"prompt": "a", "preferences": [Preference("ab\ud83d", 1.0)]},
            r"preferences\[0\].text: must not hold half a character, has one at 2",
        ),
        ({"prompt": "a", "stop": ["b", "\ud83d"]}, r"stop\[1\]: must not hold half"),
        ({"prompt": "a", "stop": [1]}, r"stop\[0\]: must be a string, got int"),
        ({"prompt": "a", "user_id": "\udcff"}, "user_id: must not hold half a character"),
        ({"prompt": b"a"}, "prompt: must be a string, got bytes"),
        ({"prompt": "a", "strategy": "best"}, "strategy: must be one of base, prompt, pad, "),
        ({"prompt": "a", "fallback": "never"}, "fallback: must be one of fail, unguided, got"),
    ],
)
def test_what_the_wire_cannot_carry_is_refused(options: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        build_request(**options)


@pytest.mark.parametrize(
    "build",
    [
        get_profile_request,
        profile_history_request,
        partial(delete_profile_request, expected_revision=None),
        partial(restore_profile_request, revision=1, expected_revision=None),
        partial(
            put_profile_request,
            preferences=["a"],
            beta=None,
            expected_revision=None,
            erase_history=False,
        ),
    ],
)
def test_user_ids_that_the_wire_cannot_carry_are_refused(build: Callable[[Any], object]) -> None:
    """Bytes on the command line that are not UTF-8 ended in a traceback that quoted them."""
    with pytest.raises(InvalidRequestError, match="user_id: must not hold half a character"):
        build("ann\udcff")
    with pytest.raises(InvalidRequestError, match="user_id: must be a string, got NoneType"):
        build(None)


def test_messages_may_be_plain_mappings() -> None:
    mixed = [{"role": "system", "content": "s"}, Message("user", "u")]
    assert build_request(messages=mixed) == generator_pb2.GenerateRequest(
        chat=common_pb2.Chat(
            messages=[
                common_pb2.ChatMessage(role="system", content="s"),
                common_pb2.ChatMessage(role="user", content="u"),
            ]
        )
    )


def test_misspelt_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="betta"):
        build_request(prompt="a", betta=1.0)  # type: ignore[call-arg]


def test_options_are_the_arguments_of_a_request() -> None:
    assert get_type_hints(GenerateOptions) == {
        name: hint for name, hint in get_type_hints(build_request).items() if name != "return"
    }


def test_options_are_the_fields_of_the_contract() -> None:
    fields = set(generator_pb2.GenerateRequest.DESCRIPTOR.fields_by_name)
    assert set(GenerateOptions.__annotations__) == fields - {"chat"} | {"messages"}


@pytest.mark.parametrize(
    ("enum", "wire_enum"),
    [
        (Strategy, generator_pb2.Strategy),
        (FallbackPolicy, generator_pb2.FallbackPolicy),
        (Detail, generator_pb2.Detail),
        (Priority, generator_pb2.Priority),
        (FinishReason, generator_pb2.FinishReason),
        (ReferenceMode, common_pb2.ReferenceMode),
    ],
)
def test_enums_are_those_of_the_contract(enum: Any, wire_enum: Any) -> None:
    known = {enum_member(enum, wire_enum.DESCRIPTOR, number) for number in wire_enum.values()}
    assert known == set(enum) | {None}  # None: unspecified


def test_number_of_a_newer_server_is_none() -> None:
    assert enum_member(Strategy, generator_pb2.Strategy.DESCRIPTOR, 99) is None
