"""Keys and values lie as they are read, and a row finds in pieces what it finds in one."""

import pytest
import torch

from svc_common.lm import lean_arena
from svc_common.lm.lean_arena import ArenaShape, new_arena, stored_rows

SHAPE = ArenaShape(num_layers=2, num_slots=3, num_heads=2, context_length=40, head_dim=8)
KEY_BYTES = SHAPE.num_heads * SHAPE.head_dim * 4  # of a place in float32
CPU = torch.device("cpu")


def test_a_row_that_is_fetched_is_one_piece_of_memory() -> None:
    arena = new_arena(SHAPE, torch.float32, CPU)
    assert arena.shape == (2, 3, 2, 2, 40, 8)
    for part in arena[1, 2]:  # keys, values: [kv_heads, context, d]
        assert part[:, :17].transpose(0, 1).is_contiguous()


def test_elsewhere_each_head_is_one_piece_of_memory() -> None:
    arena = new_arena(SHAPE, torch.bfloat16, CPU)
    assert arena.shape == (2, 3, 2, 2, 40, 8)
    assert arena[1, 2, 0, 1].is_contiguous()


@pytest.mark.parametrize(("num_places", "num_pieces"), [(1, 1), (10, 1), (11, 2), (33, 4)])
def test_a_row_finds_in_pieces_what_it_finds_in_one(
    num_places: int, num_pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lean_arena, "FETCH_BYTES", 10 * KEY_BYTES)
    fetched: list[int] = []
    monkeypatch.setattr(lean_arena, "fetch", lambda stored: fetched.append(stored.nbytes))
    torch.manual_seed(0)
    arena = new_arena(SHAPE, torch.float32, CPU)
    arena.normal_()
    queries = torch.randn(2, 3, 8)
    for layer, stored in enumerate(stored_rows(arena, 1, num_places)):
        fetched.clear()
        found = stored.look_up(queries)
        keys, values = arena[layer, 1, :, :, :num_places]
        wanted = (queries @ keys.transpose(1, 2)).softmax(-1) @ values
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        assert len(fetched) == 2 * num_pieces
        assert sum(fetched) == 2 * num_places * KEY_BYTES
        assert max(fetched) <= 10 * KEY_BYTES
