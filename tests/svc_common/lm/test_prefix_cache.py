"""What was read once is copied, is what a forward would give, and stays within its bytes."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from svc_common.lm.forward import Contents, Forward
from svc_common.lm.head import Head
from svc_common.lm.lean import LeanForward
from svc_common.lm.lean_weights import lean_weights
from svc_common.lm.prefix_cache import BLOCK, PrefixCache
from svc_common.lm.prefix_tree import PrefixTree, TokenIds, common_length, num_bytes
from svc_common.lm.runner import SlotRunner
from svc_common.lm.transformers_forward import TransformersForward
from tests.tiny_model import VOCABULARY_SIZE, tiny_model

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
TOKEN_BYTES = 2 * 2 * 2 * 8 * 4  # of the tiny model: layers, keys and values, heads, dim, float32
FORWARDS = ["lean", "transformers"]


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


def new_runner(kind: str, model: nn.Module) -> SlotRunner:
    forward: Forward = TransformersForward(model.base_model)
    if kind == "lean":
        forward = LeanForward(lean_weights(model.base_model, 128))
    return SlotRunner(forward, num_slots=3, context_length=128)


def read(runner: SlotRunner, cache: PrefixCache, token_ids: TokenIds) -> tuple[torch.Tensor, int]:
    """Read a prompt the way the services do; return its last hidden state and what was copied."""
    row = runner.open()
    num_copied = cache.fill(runner, row, token_ids[:-1])
    hidden = runner.append(row, token_ids[num_copied:])
    cache.keep(runner, row, token_ids)
    runner.close(row)
    return hidden, num_copied


def prompt(seed: int, length: int = 3 * BLOCK) -> TokenIds:
    rng = random.Random(seed)
    return tuple(rng.randrange(VOCABULARY_SIZE) for _ in range(length))


@pytest.mark.parametrize("kind", FORWARDS)
@pytest.mark.parametrize("max_tokens", [150, 10_000])
@pytest.mark.parametrize("hash_block", [hash, lambda _: 0], ids=["hash", "colliding"])
def test_prompts_that_share_beginnings_give_what_a_full_recompute_gives(
    kind: str, max_tokens: int, hash_block: object
) -> None:
    model = tiny_model()
    runner, head = new_runner(kind, model), Head(model)
    cache = PrefixCache(max_tokens * TOKEN_BYTES, hash_block)  # type: ignore[arg-type]
    rng = random.Random(1)
    known = [prompt(0, 40)]
    num_copied = 0
    for seed in range(60):
        one = rng.choice(known)
        one = (*one[: rng.randint(0, len(one))], *prompt(seed, rng.randint(1, 40)))[:100]
        known.append(one)
        hidden, num = read(runner, cache, one)
        with torch.inference_mode():
            expected = model(input_ids=torch.tensor([one]), use_cache=False).logits[0, -1]
        torch.testing.assert_close(head.logits(hidden)[0], expected, **TOLERANCE)
        assert cache.num_bytes == cache.num_tokens * TOKEN_BYTES <= cache.max_bytes
        num_copied += num
    assert num_copied > 200
    assert num_copied + runner.num_tokens == sum(map(len, known[1:]))


def contents_of(token_ids: TokenIds) -> Contents:
    """Contents that tell which tokens they belong to."""
    return (torch.tensor(token_ids, dtype=torch.float32).reshape(1, -1, 1),)


@given(st.lists(st.lists(st.integers(0, 2), max_size=6).map(tuple), max_size=30), st.data())
def test_the_longest_kept_beginning_is_found(keys: list[TokenIds], data: st.DataObject) -> None:
    tree = PrefixTree()
    kept: set[TokenIds] = set()  # all beginnings of what was added
    for key in keys:
        num_known = sum(piece.length for piece in tree.find(0, key))
        if num_known < len(key):
            tree.add(0, key, contents_of(key[num_known:]))
        kept |= {key[: i + 1] for i in range(len(key))}
    assert tree.num_tokens == len(kept)  # common beginnings are kept once
    query = data.draw(st.lists(st.integers(0, 2), max_size=8).map(tuple))
    pieces = tree.find(0, query)
    length = sum(piece.length for piece in pieces)
    assert length == max((common_length(query, key) for key in kept), default=0)
    found = [piece.contents[0][0, : piece.length, 0] for piece in pieces]
    assert torch.cat([torch.zeros(0), *found]).tolist() == list(query[:length])
    assert tree.find(1, query) == []  # the other group's weights


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple), max_size=30))
def test_dropping_the_oldest_never_leaves_a_gap(keys: list[TokenIds]) -> None:
    tree = PrefixTree()
    for key in keys:
        num_known = sum(piece.length for piece in tree.find(0, key))
        if num_known < len(key):
            tree.add(0, key, contents_of(key[num_known:]))
        while tree.num_tokens > 10:
            tree.drop_oldest()
        found = [piece.contents[0][0, : piece.length, 0] for piece in tree.find(0, key)]
        assert torch.cat(found).tolist() == list(key)  # the newest is there
    while tree.num_tokens:
        tree.drop_oldest()
    assert tree.num_bytes == 0


def test_the_least_recently_used_goes_first() -> None:
    runner = new_runner("lean", tiny_model())
    cache = PrefixCache(3 * len(prompt(1)) * TOKEN_BYTES)
    for seed in (1, 2, 3):
        read(runner, cache, prompt(seed))
    cache.count(0, prompt(1))
    row = runner.open()
    runner.append(row, prompt(4))
    cache.keep(runner, row, prompt(4), is_shared=True)
    kept = [cache.count(0, prompt(seed)) for seed in (1, 2, 3, 4)]
    assert kept == [len(prompt(1)), 0, len(prompt(1)), len(prompt(1))]


def test_a_full_cache_takes_only_what_is_asked_for_again() -> None:
    runner = new_runner("lean", tiny_model())
    cache = PrefixCache(3 * BLOCK * TOKEN_BYTES)
    first, system = prompt(1), prompt(2, 2 * BLOCK + 3)
    read(runner, cache, first)
    read(runner, cache, (*system, *prompt(3, 20)))
    assert cache.count(0, first) == len(first)
    assert cache.count(0, system) == 0
    read(runner, cache, (*system, *prompt(4, 20)))
    assert cache.count(0, system) == 2 * BLOCK  # whole blocks, and nothing of the two rests
    assert cache.num_tokens == 2 * BLOCK


def test_a_full_cache_with_colliding_hashes_takes_too_much_and_finds_what_is_right() -> None:
    runner = new_runner("lean", tiny_model())
    cache = PrefixCache(3 * BLOCK * TOKEN_BYTES, hash_block=lambda _: 0)
    for seed in (1, 2):
        read(runner, cache, prompt(seed))
    assert [cache.count(0, prompt(seed)) for seed in (1, 2)] == [0, len(prompt(2))]


def test_what_is_larger_than_the_cache_is_kept_as_far_as_it_fits() -> None:
    runner = new_runner("transformers", tiny_model())
    cache = PrefixCache(20 * TOKEN_BYTES + 7)
    read(runner, cache, prompt(1))
    assert cache.count(0, prompt(1)) == 20
    nothing = PrefixCache(0)
    read(runner, nothing, prompt(1))
    assert nothing.num_tokens == 0


def test_rows_of_another_group_run_other_weights() -> None:
    runner = new_runner("lean", tiny_model())
    cache = PrefixCache(1 << 20)
    read(runner, cache, prompt(1))
    assert cache.fill(runner, runner.open(group=1), prompt(1)) == 0
    assert cache.fill(runner, runner.open(group=0), prompt(1)) == len(prompt(1))


@pytest.mark.parametrize("kind", FORWARDS)
def test_pieces_of_a_row_can_be_written_one_behind_the_other(kind: str) -> None:
    model = tiny_model()
    runner, head = new_runner(kind, model), Head(model)
    ids = prompt(7, 30)
    row, other, copy = runner.open(), runner.open(), runner.open()
    runner.append(row, ids)
    pieces = [runner.read(row, 11), runner.read(row, 20, start=11), runner.read(row, start=20)]
    assert [num_bytes(piece) for piece in pieces] == [n * TOKEN_BYTES for n in (11, 9, 10)]
    for piece, length in zip(pieces, (11, 9, 8), strict=True):
        runner.write(other, piece, length)
    runner.copy(row, copy, 28)
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    for target in (other, copy):
        logits = head.logits(runner.append(target, ids[28:]))[0]
        torch.testing.assert_close(logits, expected, **TOLERANCE)
