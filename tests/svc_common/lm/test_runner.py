"""The slot runner gives what the model gives, whoever else is in the batch."""

import random

import pytest
import torch
from torch import Tensor, nn

from svc_common.lm.head import Head, ValueHead
from svc_common.lm.paired import pair_weights
from svc_common.lm.runner import SlotRunner
from svc_common.lm.slots import NoFreeSlotError, Row
from tests.tiny_model import ARCHITECTURES, VOCABULARY_SIZE, tiny_model

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}  # float32; batch composition changes rounding


@torch.inference_mode()
def recomputed_logits(model: nn.Module, token_ids: list[int]) -> Tensor:
    """The oracle: no cache, one sequence, the whole prefix."""
    logits: Tensor = model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0, -1]
    return logits


def random_ids(rng: random.Random, most: int) -> list[int]:
    return [rng.randrange(VOCABULARY_SIZE) for _ in range(rng.randint(1, most))]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_that_join_and_leave_at_random_get_what_a_full_recompute_gives(
    architecture: str, attention: str
) -> None:
    model = tiny_model(architecture)
    model.set_attn_implementation(attention)
    head = Head(model)
    runner = SlotRunner(model.base_model, num_slots=5, context_length=128)
    rng = random.Random(3)
    live: dict[Row, list[int]] = {}
    num_compared = 0
    for _ in range(60):
        if runner.num_free and rng.random() < 0.4:
            row, ids = runner.open(), random_ids(rng, 40)
            cut = rng.randint(1, len(ids))
            hidden = runner.append(row, ids[:cut])
            if cut < len(ids):  # chunked prefill
                hidden = runner.append(row, ids[cut:])
            live[row] = [*ids, int(head.logits(hidden)[0].argmax())]
        elif live and rng.random() < 0.2:
            row = rng.choice(list(live))
            runner.close(row)
            del live[row]
        if not live:
            continue
        rows = rng.sample(list(live), rng.randint(1, len(live)))  # any subset, any order
        logits = head.logits(runner.decode(rows, [live[row][-1] for row in rows]))
        for row, mine in zip(rows, logits, strict=True):
            theirs = recomputed_logits(model, live[row])
            torch.testing.assert_close(mine, theirs, **TOLERANCE)
            assert int(mine.argmax()) == int(theirs.argmax())
            live[row].append(int(theirs.argmax()))
            num_compared += 1
    assert num_compared > 60


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_two_sets_of_weights_in_one_forward_give_what_each_model_gives(architecture: str) -> None:
    first, second = tiny_model(architecture, seed=1), tiny_model(architecture, seed=2)
    oracle = tiny_model(architecture, seed=1), tiny_model(architecture, seed=2)
    heads = Head(first), Head(second)
    split = pair_weights(first.base_model, second.base_model)
    runner = SlotRunner(first.base_model, num_slots=6, context_length=128, split=split)
    rng = random.Random(4)
    live: dict[Row, list[int]] = {}
    for step in range(40):
        if runner.num_free:
            row, ids = runner.open(group=step % 2), random_ids(rng, 20)
            hidden = runner.append(row, ids)
            live[row] = [*ids, int(heads[row.group].logits(hidden)[0].argmax())]
        elif rng.random() < 0.4:
            row = rng.choice(list(live))
            runner.close(row)
            del live[row]
        rows = rng.sample(list(live), rng.randint(1, len(live)))
        before = runner.num_forwards
        hidden = runner.decode(rows, [live[row][-1] for row in rows])
        assert runner.num_forwards == before + 1
        for i, row in enumerate(rows):
            mine = heads[row.group].logits(hidden[i : i + 1])[0]
            theirs = recomputed_logits(oracle[row.group], live[row])
            torch.testing.assert_close(mine, theirs, **TOLERANCE)
            live[row].append(int(theirs.argmax()))


def test_pairing_shares_equal_layers_and_refuses_other_architectures() -> None:
    first, second = tiny_model(seed=1), tiny_model(seed=1)
    pair_weights(first.base_model, second.base_model)
    assert not any(type(module).__name__ == "PairedLeaf" for module in first.modules())
    with pytest.raises(ValueError, match=r"shapes must be equal|must be a plain layer"):
        pair_weights(tiny_model(hidden=64).base_model, tiny_model().base_model)


def test_a_prefix_that_was_read_can_be_written_to_another_row() -> None:
    model = tiny_model()
    head = Head(model)
    runner = SlotRunner(model.base_model, num_slots=3, context_length=64)
    ids = [*random_ids(random.Random(5), 30), 7, 8, 9]
    row = runner.open()
    runner.append(row, ids)
    kept = runner.read(row)
    runner.close(row)
    other = runner.open()
    runner.append(other, [1, 2, 3])
    copy = runner.open()
    runner.write(copy, kept, len(ids) - 2)
    logits = head.logits(runner.append(copy, ids[-2:]))[0]
    torch.testing.assert_close(logits, recomputed_logits(model, ids), **TOLERANCE)


def test_a_full_runner_says_so() -> None:
    runner = SlotRunner(tiny_model().base_model, num_slots=1, context_length=8)
    runner.open()
    with pytest.raises(NoFreeSlotError):
        runner.open()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_candidate_logits_equal_the_full_head_with_the_value_head_before_it(
    architecture: str,
) -> None:
    model = tiny_model(architecture)
    torch.manual_seed(0)
    value_head = ValueHead(torch.eye(32) + 0.1 * torch.randn(32, 32), 0.1 * torch.randn(32))
    head = Head(model, value_head)
    hidden = torch.randn(3, 32)
    candidates = torch.randint(0, VOCABULARY_SIZE, (3, 10))
    naive = model.get_output_embeddings()(hidden @ value_head.weight.T + value_head.bias)
    torch.testing.assert_close(head.logits(hidden), naive, **TOLERANCE)
    expected = naive.gather(1, candidates)
    torch.testing.assert_close(head.candidate_logits(hidden, candidates), expected, **TOLERANCE)
