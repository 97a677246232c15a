"""Array fields of reward.proto: numbers as little-endian uint32, one behind the other."""

import struct
from collections.abc import Sequence

NUMBER_BYTES = 4


def pack(numbers: Sequence[int]) -> bytes:
    """Return numbers as an array field."""
    return struct.pack(f"<{len(numbers)}I", *numbers)  # amid a step half of what numpy takes


def unpack(data: bytes) -> list[int]:
    """Return the numbers of an array field.

    Raises:
        ValueError: it is cut off.
    """
    count, left = divmod(len(data), NUMBER_BYTES)
    if left:
        raise ValueError(f"array field: must hold 4 bytes a number, got {len(data)} bytes")
    return list(struct.unpack(f"<{count}I", data))
