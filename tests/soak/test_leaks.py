"""After calls that were cancelled, ran out of time or lost their connection nothing is left."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pad_client.embedded import EmbeddedStack
from tests.fuzz.campaign import check_unharmed
from tests.fuzz.probes import assert_same, probe
from tests.fuzz.tiny_stack import complaints, tiny_stack
from tests.soak.leaks import measure

# `make soak` makes 10,000, 10,000 and 1,000 and allows 2 % of memory: allocators settle by then.
NUM_CALLS = {"cancelled": 1000, "expired": 1000, "broken": 100}
MAX_GROWTH = 0.06


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    folder: Path = tmp_path_factory.mktemp("tiny_models")
    with tiny_stack(folder) as running:
        yield running


@pytest.mark.parametrize("kind", NUM_CALLS)
def test_calls_that_end_badly_leave_nothing_behind(stack: EmbeddedStack, kind: str) -> None:
    before, starts = probe(stack), {}
    complaints(stack, starts)
    growths = measure(stack, kind, NUM_CALLS[kind] // 2, NUM_CALLS[kind])
    for growth in growths:
        assert growth.after.num_files <= growth.before.num_files, str(growth)
        assert growth.share < MAX_GROWTH, str(growth)
    check_unharmed(stack, starts)  # no session, no row, no active answer is left
    assert_same(before, probe(stack))
