"""Values for the fields of messages: such that a request may succeed with, and hostile ones."""

import math
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from tests.tiny_model import VOCABULARY_SIZE

Make = Callable[[random.Random], Any]
TEXTS = ["Tell me of the sea.", "Be brief.", "x", "Ärger 漢字 👍🏽", "a\nb\tc", "  spaces  "]
NUM_SESSIONS = 5

_HUGE_TEXTS = ["a" * 129, "b" * 2001, "漢" * 2000, "c" * 30_000, "word " * 20_000, "\u0301" * 5000]
HOSTILE_TEXTS = ["", " ", "\x00", "\ufeff", "<|end|>", "<|user|>", "{{ 7*7 }}", "%s%n", "\u202e"]
HOSTILE_TEXTS += [
    "../../etc/passwd",
    "*",
    "\r\nSET a b\r\n",
    "🙂" * 200,
    "pad:v1:{default:a}:profile",
]
HOSTILE_FLOATS = [math.nan, math.inf, -math.inf, -0.0, 0.0, -1.0, 5e-324, 1e-310, 1e-45, 1e-30]
HOSTILE_FLOATS += [1e-8, 1.0000000001, 10.0, 10.000001, 5.0, 3.4e38, 1e39, 1.7e308]
_BITS = {
    FieldDescriptor.CPPTYPE_INT32: (32, True),
    FieldDescriptor.CPPTYPE_UINT32: (32, False),
    FieldDescriptor.CPPTYPE_INT64: (64, True),
    FieldDescriptor.CPPTYPE_UINT64: (64, False),
}


def pack(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def hostile(rng: random.Random, field: FieldDescriptor) -> Any:
    """Return a value of a field's type that its author did not think of."""
    kind = field.cpp_type
    if kind in _BITS:
        return _hostile_int(rng, *_BITS[kind])
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice([-1, 7, 99, 2**31 - 1, -(2**31), rng.randrange(8)])
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return rng.choice(HOSTILE_FLOATS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _hostile_bytes(rng)
    return rng.choice(_HUGE_TEXTS if rng.random() < 0.1 else HOSTILE_TEXTS)


def hostile_count(rng: random.Random) -> int:
    """Return how many values a repeated field gets."""
    return rng.choice([0, 1, 2, 3, 8, 9, 16, 17] if rng.random() < 0.97 else [300, 2048, 5000])


def _hostile_int(rng: random.Random, bits: int, is_signed: bool) -> int:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed else (0, (1 << bits) - 1)
    edges = [low, low + 1, high, high - 1, 0, 1, 2, 10, 16, 17, 100, 101, 256, 257, 512, 513, 1001]
    edges += [1 << 31, (1 << 31) - 1, (1 << 53) + 1]
    return min(high, max(low, rng.choice(edges)))


def _hostile_bytes(rng: random.Random) -> bytes:
    length = rng.choice([0, 1, 2, 3, 4, 5, 7, 8, 12, 64, 1000])
    if rng.random() < 0.02:
        length = 1 << 16
    return rng.randbytes(length)


def _numbers(most: int, count: int = 3) -> Make:
    return lambda rng: pack([rng.randrange(most) for _ in range(rng.randrange(count + 1))])


# By the end of a field's name; the longest that fits counts.
FRIENDLY: dict[str, Make] = {
    "prompt": lambda rng: rng.choice(TEXTS),
    "content": lambda rng: rng.choice(TEXTS),
    "text": lambda rng: rng.choice(TEXTS),
    "role": lambda rng: rng.choice(["user", "user", "user", "assistant", "system"]),
    "weight": lambda rng: rng.choice([0.5, 1.0, 10.0]),
    "user_id": lambda rng: rng.choice(["anna", "ben@example.org", "c:d"]),
    "beta": lambda rng: rng.choice([0.0, 0.5, 1.0, 10.0]),
    "top_k": lambda rng: rng.choice([1, 2, 10, 100]),
    "temperature": lambda rng: rng.choice([0.0, 0.7, 5.0]),
    "top_p": lambda rng: rng.choice([0.1, 0.9, 1.0]),
    "max_tokens": lambda rng: rng.randint(1, 4),
    "stop": lambda rng: rng.choice(["a", "the", "\n"]),
    "strategy": lambda rng: rng.randrange(6),
    "reference": lambda rng: rng.choice([1, 1, 1, 2]),
    "GenerateRequest.reference": lambda rng: rng.choice([0, 0, 0, 1, 2]),
    "fallback": lambda rng: rng.randrange(3),
    "priority": lambda rng: rng.randrange(3),
    "subject": lambda rng: rng.choice([b"", b"s" * 32, b"t" * 32]),
    "subjects": lambda rng: rng.choice([b"s", b"t"]) * 32,
    "Preference.text": lambda rng: rng.choice(
        ["Be brief.", "Rhyme, please.", "Schreib h\u00f6flich!"]
    ),
    "detail": lambda rng: rng.choice([0, 0, 1, 2, 3, 3]),
    "num_samples": lambda rng: rng.randint(1, 3),
    "RestoreProfileRequest.revision": lambda rng: rng.randint(1, 4),
    "erases_history": lambda rng: rng.random() < 0.3,
    "wants_preference_rewards": lambda rng: rng.random() < 0.5,
    "expected_revision": lambda rng: rng.randrange(4),
    "page_size": lambda rng: rng.choice([0, 1, 2, 1000]),
    "page_token": lambda rng: "",
    "session": lambda rng: rng.randrange(NUM_SESSIONS),
    "closes": lambda rng: rng.randrange(NUM_SESSIONS),
    "epoch": lambda rng: rng.choice([0, 0, 0, 0, 1]),
    "SessionOpen.token_ids": _numbers(VOCABULARY_SIZE),
    "traceparent": lambda rng: (
        f"00-{rng.getrandbits(127) + 1:032x}-{rng.getrandbits(63) + 1:016x}-01"
    ),
    "tracestate": lambda rng: rng.choice(["", "a=1", "a=1,b@c=2"]),
    "encoding": _numbers(VOCABULARY_SIZE),
    "sequences": _numbers(VOCABULARY_SIZE, 8),
    "batch_id": lambda rng: rng.randrange(1, 1000),
    "service": lambda rng: rng.choice(["", "pad.v1.RewardService", "pad.v1.GeneratorService"]),
    "file_by_filename": lambda rng: rng.choice(["pad/v1/reward.proto", "pad/v1/common.proto"]),
    "file_containing_symbol": lambda rng: rng.choice(["pad.v1.Chat", "grpc.health.v1.Health"]),
    "containing_type": lambda rng: "pad.v1.Chat",
    "all_extension_numbers_of_type": lambda rng: rng.choice(["pad.v1.Chat", "no.such"]),
}


def friendly(rng: random.Random, field: FieldDescriptor) -> Any:
    """Return a value that the field may have; a hostile one where none is known."""
    name = f"{field.containing_type.name}.{field.name}"
    make = FRIENDLY.get(name, FRIENDLY.get(field.name))
    return make(rng) if make is not None else hostile(rng, field)
