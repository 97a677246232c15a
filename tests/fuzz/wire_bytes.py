"""Bytes on the wire that are nearly a message, or none at all."""

import random
from collections.abc import Callable

Mutation = Callable[[random.Random, bytes], bytes]
_UNKNOWN = b"\xfa\x3f\x05hello"  # field 1023, length-delimited
_VARINT = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
_TOO_LONG = b"\x0a\xff\xff\xff\xff\x0f"  # says that 4 GiB follow
_OPEN_GROUP = b"\x0b"


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _flip_bits(rng: random.Random, data: bytes) -> bytes:
    flipped = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _break_text(rng: random.Random, data: bytes) -> bytes:
    """Overwrite a byte with one that UTF-8 never has."""
    at = rng.randrange(len(data))
    return data[:at] + rng.choice([b"\xff", b"\xc0", b"\xed\xa0\x80"]) + data[at + 1 :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    return data * rng.choice([2, 3, 20])


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    what = rng.choice([_UNKNOWN, _VARINT, _TOO_LONG, b"\x00", rng.randbytes(5), _OPEN_GROUP * 200])
    return data[:at] + what + data[at:]


def _append_unknown(rng: random.Random, data: bytes) -> bytes:
    return data + _UNKNOWN * rng.choice([1, 100]) + rng.choice([b"", b"\xf8\x3f\x07"])


def _remove(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randint(1, 8) :]


MUTATIONS: tuple[Mutation, ...] = (
    _cut,
    _flip_bits,
    _flip_bits,
    _break_text,
    _repeat,
    _insert,
    _append_unknown,
    _remove,
)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return a message's bytes changed in one way or two."""
    for _ in range(rng.choice([1, 1, 2])):
        data = rng.choice(MUTATIONS)(rng, data) if data else rng.randbytes(8)
    return data
