"""Counts the fields of a message before it is read: what is read holds up everybody.

Reading four megabytes of empty messages takes up to half a second and 200 MB, in which the event
loop answers nobody. Text and arrays of that size take a millisecond.
"""

from contextlib import suppress
from functools import cache
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor

MAX_FIELDS = 1 << 13  # of one message and all messages in it; to count one takes 0.4 us
QUICK_BYTES = 1 << 16  # as many fields as these can hold are read in 4 ms

_MAX_VARINT_BYTES = 10


class _Part(NamedTuple):
    """A message, or one in it, that is still to be looked through."""

    start: int
    end: int
    kind: Descriptor


def has_too_many_fields(data: bytes, kind: Descriptor) -> bool:
    """Return whether a message has more than `MAX_FIELDS` fields, those in its messages included.

    Looks no further than that. What is no message of this kind is left to whoever reads it.
    """
    if len(data) <= QUICK_BYTES:
        return False
    num_left = MAX_FIELDS
    parts = [_Part(0, len(data), kind)]
    while parts and num_left >= 0:
        # One that is broken ends the reading, but only behind all that stands before it.
        with suppress(IndexError, ValueError):
            num_left = _look_through(data, parts, num_left)
    return num_left < 0


def _look_through(data: bytes, parts: list[_Part], num_left: int) -> int:
    """Take the last part, add the messages in it, and return how many fields may still come.

    Raises:
        IndexError: The data end in the middle of a field.
        ValueError: They are no fields.
    """
    position, end, kind = parts.pop()
    inner = _messages_in(kind)
    while position < end and num_left >= 0:
        num_left -= 1
        tag, position = _varint(data, position)
        wire_type = tag & 7
        if wire_type == 2:  # with a length
            length, position = _varint(data, position)
            if length and tag >> 3 in inner:
                parts.append(_Part(position, min(position + length, end), inner[tag >> 3]))
            position += length
        elif wire_type == 0:
            _, position = _varint(data, position)
        elif wire_type in (1, 5):
            position += 8 if wire_type == 1 else 4
        elif wire_type > 5:  # 3 and 4: a group, which nothing here has; its fields follow
            raise ValueError(f"wire type: must be 0..5, got {wire_type}")
    return num_left


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position behind it."""
    byte = data[position]
    if byte < 0x80:
        return byte, position + 1
    value = byte & 0x7F
    for i in range(1, _MAX_VARINT_BYTES):
        byte = data[position + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, position + i + 1
    raise ValueError(f"varint: must have at most {_MAX_VARINT_BYTES} bytes, has more")


@cache
def _messages_in(kind: Descriptor) -> dict[int, Descriptor]:
    """Return the kinds of the messages in a message, by the numbers of their fields."""
    return {field.number: field.message_type for field in kind.fields if field.message_type}
