"""Which node of a Redis Cluster has which keys, as a node tells it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from generator_svc.redis_node import Key

NUM_SLOTS = REDIS_CLUSTER_HASH_SLOTS

Address = tuple[str, int]


@dataclass(frozen=True)
class SlotRange:
    """Slots `first` to `last`, both included, and the primary that has them."""

    first: int
    last: int
    primary: Address

    @property
    def slots(self) -> slice:
        return slice(self.first, self.last + 1)

    @property
    def num_slots(self) -> int:
        return self.last + 1 - self.first


def slot_of(key: Key) -> int:
    """Return the slot of a key: of what stands between its first braces, or of all of it."""
    return key_slot(key.encode() if isinstance(key, str) else key)


def parse_ranges(reply: Any, asked_host: str) -> list[SlotRange]:
    """Return what a node answered to CLUSTER SLOTS.

    Args:
        reply: A list of first slot, last slot, the primary, and replicas.
        asked_host: Stands for hosts that the node does not know: its own, until others met it,
            and those that are to be named without a name having been set.

    Raises:
        ValueError: It is something else.
    """
    try:
        return list(_ranges(reply, asked_host))
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError("the answer to CLUSTER SLOTS cannot be read") from error


def _ranges(reply: Any, asked_host: str) -> Iterator[SlotRange]:
    for first, last, primary, *_ in reply:
        host, port = primary[:2]
        name = (host.decode() if isinstance(host, bytes) else host) or ""
        if not 0 <= first <= last < NUM_SLOTS:
            raise ValueError("slots are out of range")
        yield SlotRange(first, last, (asked_host if name in ("", "?") else name, int(port)))
