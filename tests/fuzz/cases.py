"""What one call does: its messages and how its caller behaves, all of it decided by a seed."""

import random
from dataclasses import dataclass
from enum import Enum, auto

from tests.fuzz.messages import MessageMaker
from tests.fuzz.methods import Method
from tests.fuzz.wire_bytes import mutate

METADATA = [
    ("x-request-id", "a" * 65),
    ("x-request-id", "sane-id"),
    ("x-request-id", "~{} %00"),
    ("authorization", "Bearer " + "x" * 3000),
    ("grpc-previous-rpc-attempts", "1"),
    ("x-odd-bin", b"\x00\xff\x80" * 100),
    ("user-agent", ""),
]


class Ending(Enum):
    """How the caller leaves."""

    READ_ALL = auto()
    CANCEL_AT_ONCE = auto()
    CANCEL_LATER = auto()  # after the first answer, or where a stream of requests is half sent
    DEADLINE = auto()
    UNREAD = auto()  # all is sent, nothing is read, then the call is cancelled


@dataclass(frozen=True)
class Case:
    """A call."""

    method: Method
    key: str
    messages: tuple[bytes, ...]
    ending: Ending
    timeout_s: float | None
    metadata: tuple[tuple[str, str | bytes], ...]
    is_compressed: bool


def make_case(method: Method, seed: int, index: int, fingerprint: str) -> Case:
    """Return case `index` of a method; the same arguments give the same case."""
    key = f"{seed}:{method.name}:{index}"
    rng = random.Random(key)
    count = rng.choice([0, 1, 2, 20, 40]) if method.streams_requests else 1
    ending = Ending.READ_ALL if rng.random() < 0.75 else rng.choice(list(Ending))
    if method.path.endswith("/Watch") and ending is Ending.READ_ALL:
        ending = Ending.CANCEL_LATER  # it ends by no other way
    return Case(
        method=method,
        key=key,
        messages=tuple(_message(rng, method, fingerprint) for _ in range(count)),
        ending=ending,
        timeout_s=rng.choice([0.0, 1e-6, 0.001, 0.01, 0.05]) if ending is Ending.DEADLINE else None,
        metadata=tuple(rng.sample(METADATA, 2)) if rng.random() < 0.05 else (),
        is_compressed=rng.random() < 0.05,
    )


def _message(rng: random.Random, method: Method, fingerprint: str) -> bytes:
    """Return bytes; in a stream more of them are right, else it ends with the first."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.choice([1, 3, 20, 1000]))
    if method.streams_requests:
        hostility = rng.choice([0.0, 0.0, 0.0, 0.0, 0.02, 0.3])
    else:
        hostility = rng.choice([0.0, 0.0, 0.05, 0.1, 0.3, 1.0])
    data = MessageMaker(rng, hostility, fingerprint).make(method.request).SerializeToString()
    return mutate(rng, data) if rng.random() < (0.02 if method.streams_requests else 0.3) else data
