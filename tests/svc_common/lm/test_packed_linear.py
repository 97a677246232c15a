"""Packed layers give what ordinary ones do for any number of rows, with little code for them."""

import os

import torch
from torch import nn

from benchmarks.suites.memory import rss_bytes
from svc_common.lm.linear import MAX_EXACT_ROWS, PACK_FOR_ROWS, filled_down, filled_up, make_linear

NUM_INPUTS, NUM_OUTPUTS = 72, 136  # of no model: nobody else has made code for them
MAX_ROWS = 200
MAX_GROWTH_MIB = 60  # it was 150


def test_any_number_of_rows_gives_what_an_ordinary_layer_gives_in_little_memory() -> None:
    """Each number of rows had code of its own: prompts of all lengths took a gigabyte."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(NUM_OUTPUTS, NUM_INPUTS, generator=generator)
    bias = torch.randn(NUM_OUTPUTS, generator=generator)
    rows = torch.randn(MAX_ROWS, NUM_INPUTS, generator=generator)
    layer = make_linear(weight, bias)
    wanted = nn.functional.linear(rows, weight, bias)
    layer(rows, MAX_ROWS)
    before = rss_bytes(os.getpid())
    for count in range(1, MAX_ROWS + 1):
        result = layer(rows[:count], count)
        torch.testing.assert_close(result, wanted[:count], rtol=1e-4, atol=1e-4)
    assert (rss_bytes(os.getpid()) - before) / (1 << 20) < MAX_GROWTH_MIB


def test_rows_are_filled_up_by_an_eighth_at_most_and_to_few_numbers() -> None:
    numbers = {count: filled_up(count) for count in range(1, 4097)}
    for count, run in numbers.items():
        assert run >= count
        assert run == filled_up(run)
        if PACK_FOR_ROWS <= count <= MAX_EXACT_ROWS:
            assert run == count
        if count > MAX_EXACT_ROWS:
            assert run < count * 9 / 8
    assert len(set(numbers.values())) < 80
    for count in range(PACK_FOR_ROWS, 4097):
        assert filled_down(count) == max(run for run in numbers.values() if run <= count)
