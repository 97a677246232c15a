"""Array fields are little-endian uint32, and a field that is cut off is refused."""

import numpy as np
import pytest

from svc_common.array_fields import pack, unpack

NUMBERS = [0, 1, 65_537, (1 << 32) - 1]


def test_numbers_are_packed_as_the_contract_says() -> None:
    assert pack(NUMBERS) == np.array(NUMBERS, "<u4").tobytes()
    assert unpack(pack(NUMBERS)) == NUMBERS
    assert unpack(pack([])) == []


def test_a_field_that_is_cut_off_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold 4 bytes a number, got 7 bytes"):
        unpack(pack([1, 2])[:-1])
