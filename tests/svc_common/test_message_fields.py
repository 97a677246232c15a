"""The fields of a message are counted without reading it, and no bytes hide them."""

from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from pad.v1 import common_pb2, generator_pb2, reward_pb2
from svc_common import message_fields
from svc_common.message_fields import QUICK_BYTES, has_too_many_fields

SCORE = reward_pb2.ScoreRequest.DESCRIPTOR
EMPTY_OPENING = b"\x12\x00"
texts, numbers = st.text(max_size=5), st.integers(0, 1 << 20)
turns = st.builds(common_pb2.ChatMessage, role=texts, content=texts)
preferences = st.builds(
    reward_pb2.EncodedPreference,
    preference=st.builds(common_pb2.Preference, text=texts, weight=st.floats(0, 10)),
    encoding=st.binary(max_size=200),
)
contexts = st.builds(
    reward_pb2.RewardContext,
    chat=st.builds(common_pb2.Chat, messages=st.lists(turns, max_size=4)),
    preferences=st.lists(preferences, max_size=3),
)
openings = st.builds(reward_pb2.SessionOpen, session=numbers, context=contexts)
messages = st.builds(
    reward_pb2.ScoreRequest,
    closes=st.lists(numbers, max_size=5),
    opens=st.lists(openings, max_size=3),
    batch_id=st.integers(0, (1 << 64) - 1),
    commits=st.builds(reward_pb2.CommitRows, sessions=st.binary(max_size=9)),
)


def num_fields(message: Message) -> int:
    """Count them one by one; an array of numbers is one."""
    count = 0
    for field, value in message.ListFields():
        values: Any = value if field.is_repeated else [value]
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            count += sum(1 + num_fields(each) for each in values)
        else:
            count += 1 if field.is_packed else len(values)
    return count


@given(messages)
def test_fields_are_counted_as_a_reader_counts_them(message: reward_pb2.ScoreRequest) -> None:
    data, count = message.SerializeToString(), num_fields(message)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(message_fields, "QUICK_BYTES", -1)
        patch.setattr(message_fields, "MAX_FIELDS", count)
        assert not has_too_many_fields(data, SCORE)
        patch.setattr(message_fields, "MAX_FIELDS", count - 1)
        assert has_too_many_fields(data, SCORE)


@given(st.binary(max_size=200))
def test_what_is_no_message_is_left_to_its_reader(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(message_fields, "QUICK_BYTES", -1)
        assert not has_too_many_fields(data, SCORE)


def inside(data: bytes) -> bytes:
    """Return an opening that consists of these bytes."""
    length, size = bytearray(), len(data)
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return b"\x12" + bytes([*length, size]) + data


@pytest.mark.parametrize("garbage", [b"\xff" * 30, b"\x0f", b"\x12", inside(b"\x0f")])
def test_garbage_behind_many_fields_hides_none_of_them(garbage: bytes) -> None:
    """A reader gets to the garbage last."""
    turns = b"\x1a" + inside(b"\x0a\x00" * QUICK_BYTES)[1:]  # field 3 of a context: chat
    conversation = inside(b"\x1a" + inside(turns)[1:])
    for data in (EMPTY_OPENING * QUICK_BYTES, conversation):
        assert has_too_many_fields(data + garbage, SCORE)


@pytest.mark.parametrize(
    "message",
    [
        generator_pb2.GenerateRequest(
            chat=common_pb2.Chat(
                messages=[common_pb2.ChatMessage(role="user", content="a" * 99)] * 1024
            )
        ),
        generator_pb2.GenerateRequest(prompt="a" * 1_000_000),
        reward_pb2.ScoreRequest(closes=[1] * 100_000),
        reward_pb2.ScoreRequest(candidates=reward_pb2.CandidateRows(candidate_ids=bytes(4 << 20))),
    ],
    ids=["conversation", "prompt", "array", "bytes"],
)
def test_large_messages_of_few_fields_are_read(message: Message) -> None:
    data = message.SerializeToString()
    assert len(data) > QUICK_BYTES
    assert not has_too_many_fields(data, message.DESCRIPTOR)
