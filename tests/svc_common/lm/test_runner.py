"""The slot runner gives what the model gives, whoever else is in the batch."""

import random

import pytest
import torch
from torch import Tensor, nn

from svc_common.lm import lean, lean_arena
from svc_common.lm.forward import Forward, Step, additive_mask
from svc_common.lm.head import Head, ValueHead
from svc_common.lm.lean import LeanForward
from svc_common.lm.lean_weights import lean_weights
from svc_common.lm.networks import make_network
from svc_common.lm.paired import pair_weights
from svc_common.lm.runner import Extension, SlotRunner
from svc_common.lm.slots import NoFreeSlotError, Row
from svc_common.lm.transformers_forward import TransformersForward
from tests.tiny_model import ARCHITECTURES, VOCABULARY_SIZE, tiny_model

LEAN = ["llama", "mistral", "gemma", "qwen2"]  # architectures that the lean forward knows
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}  # float32; batch composition changes rounding


@torch.inference_mode()
def recomputed_logits(model: nn.Module, token_ids: list[int]) -> Tensor:
    """The oracle: no cache, one sequence, the whole prefix."""
    logits: Tensor = model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0, -1]
    return logits


def random_ids(rng: random.Random, most: int) -> list[int]:
    return [rng.randrange(VOCABULARY_SIZE) for _ in range(rng.randint(1, most))]


def forward_of(kind: str, model: nn.Module) -> Forward:
    if kind == "lean":
        return LeanForward(lean_weights(model.base_model, 128))
    model.set_attn_implementation(kind)
    return TransformersForward(model.base_model)


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [(architecture, kind) for architecture in ARCHITECTURES for kind in ("sdpa", "eager")]
    + [(architecture, "lean") for architecture in LEAN],
)
def test_rows_that_join_and_leave_at_random_get_what_a_full_recompute_gives(
    architecture: str, kind: str
) -> None:
    model = tiny_model(architecture)
    head = Head(model)
    runner = SlotRunner(forward_of(kind, model), num_slots=5, context_length=128)
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


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [(architecture, "transformers") for architecture in ARCHITECTURES]
    + [(architecture, "lean") for architecture in LEAN],
)
def test_two_sets_of_weights_in_one_forward_give_what_each_model_gives(
    architecture: str, kind: str
) -> None:
    first, second = tiny_model(architecture, seed=1), tiny_model(architecture, seed=2)
    oracle = tiny_model(architecture, seed=1), tiny_model(architecture, seed=2)
    heads = Head(first), Head(second)
    network = make_network(first.base_model, 128, kind, second=second.base_model)
    assert network.kind == kind
    runner = network.new_runner(6)
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


@pytest.mark.parametrize("kind", ["lean", "transformers"])
def test_extensions_that_run_together_give_what_each_gives_alone(kind: str) -> None:
    models = tiny_model(seed=1), tiny_model(seed=2)
    oracle = tiny_model(seed=1), tiny_model(seed=2)
    heads = Head(models[0]), Head(models[1])
    network = make_network(models[0].base_model, 128, kind, second=models[1].base_model)
    runner = network.new_runner(7)
    rng = random.Random(6)
    held = {runner.open(group): random_ids(rng, 30) for group in (1, 0, 1, 0, 0, 1, 0)}
    for row, ids in held.items():
        runner.append(row, ids)
    rows = sorted(held, key=lambda row: row.index)  # four of group 0, three of group 1
    for _ in range(4):
        second, mixed, first = [rows[6]], [rows[5], rows[1], rows[0]], [rows[3], rows[2]]
        parts = [
            Extension(its, [[rng.randrange(VOCABULARY_SIZE) for _ in range(n)] for _ in its])
            for its, n in ((second, 7), (mixed, 1), (first, 4), ([rows[4]], 2))
        ]
        before = runner.num_forwards, runner.num_tokens
        found = runner.extend_each(parts)
        assert runner.joins is (kind == "lean")
        assert runner.num_forwards == before[0] + (1 if runner.joins else len(parts))
        assert runner.num_tokens == before[1] + 7 + 3 + 8 + 2
        for part, hidden in zip(parts, found, strict=True):
            for row, ids, its in zip(part.rows, part.token_ids, hidden, strict=True):
                held[row] += ids
                mine = heads[row.group].logits(its[-1:])[0]
                theirs = recomputed_logits(oracle[row.group], held[row])
                torch.testing.assert_close(mine, theirs, **TOLERANCE)


def test_pairing_shares_equal_layers_and_refuses_other_architectures() -> None:
    first, second = tiny_model(seed=1), tiny_model(seed=1)
    pair_weights(first.base_model, second.base_model)
    assert not any(type(module).__name__ == "PairedLeaf" for module in first.modules())
    with pytest.raises(ValueError, match=r"shapes must be equal|must be a plain layer"):
        pair_weights(tiny_model(hidden=64).base_model, tiny_model().base_model)


@pytest.mark.parametrize("kind", ["lean", "sdpa"])
def test_several_tokens_a_row_in_one_forward_give_what_each_row_gives_alone(kind: str) -> None:
    model = tiny_model()
    runner = SlotRunner(forward_of(kind, model), num_slots=4, context_length=128)
    rng = random.Random(8)
    prompts = [random_ids(rng, 30) for _ in range(4)]
    rows = [runner.open() for _ in prompts]
    for row, prompt in zip(rows, prompts, strict=True):
        runner.append(row, prompt)
    order = [2, 0, 3]
    drafts = [[rng.randrange(VOCABULARY_SIZE) for _ in range(5)] for _ in order]
    logits = Head(model).logits(runner.extend([rows[i] for i in order], drafts))  # [B, T, V]
    for mine, i, draft in zip(logits, order, drafts, strict=True):
        for j in range(5):
            theirs = recomputed_logits(model, prompts[i] + draft[: j + 1])
            torch.testing.assert_close(mine[j], theirs, **TOLERANCE)
    runner.truncate(rows[0], len(prompts[0]) + 2)  # what follows is written over
    logits = Head(model).logits(runner.decode([rows[0]], [9]))[0]
    expected = recomputed_logits(model, prompts[0] + drafts[1][:2] + [9])
    torch.testing.assert_close(logits, expected, **TOLERANCE)


@pytest.mark.parametrize("kind", ["lean", "sdpa"])
def test_a_prefix_that_was_read_can_be_written_to_another_row(kind: str) -> None:
    model = tiny_model()
    head = Head(model)
    runner = SlotRunner(forward_of(kind, model), num_slots=3, context_length=64)
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


LARGE = 1 << 30


@pytest.mark.parametrize(
    ("call_bytes", "together_bytes", "fetch_bytes", "num_masks_wanted"),
    [
        (0, LARGE, 1 << 9, 0),
        (0, LARGE, LARGE, 0),
        (LARGE, LARGE, LARGE, 4),
        (LARGE, 0, LARGE, 0),  # more than caches hold
    ],
)
def test_rows_of_different_lengths_attend_together_or_each_alone(
    call_bytes: int,
    together_bytes: int,
    fetch_bytes: int,
    num_masks_wanted: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lean, "CALL_BYTES", call_bytes)
    monkeypatch.setattr(lean, "TOGETHER_BYTES", together_bytes)
    monkeypatch.setattr(lean_arena, "FETCH_BYTES", fetch_bytes)
    num_masks = []

    def counted_mask(step: Step, places: Tensor, dtype: torch.dtype) -> Tensor:
        num_masks.append(1)
        return additive_mask(step, places, dtype)

    model = tiny_model("llama")
    head = Head(model)
    runner = SlotRunner(forward_of("lean", model), num_slots=4, context_length=128)
    rng = random.Random(5)
    live = {runner.open(): [rng.randrange(VOCABULARY_SIZE) for _ in range(n)] for n in (3, 90, 41)}
    for row, ids in live.items():
        runner.append(row, ids)
    monkeypatch.setattr(lean, "additive_mask", counted_mask)
    for _ in range(4):
        for ids in live.values():
            ids.append(rng.randrange(VOCABULARY_SIZE))
        logits = head.logits(runner.decode(list(live), [ids[-1] for ids in live.values()]))
        for ids, mine in zip(live.values(), logits, strict=True):
            torch.testing.assert_close(mine, recomputed_logits(model, ids), **TOLERANCE)
    assert len(num_masks) == num_masks_wanted


@torch.inference_mode()
def test_in_16_bits_rows_find_alone_what_they_find_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("llama").bfloat16()
    runner = SlotRunner(forward_of("lean", model), num_slots=4, context_length=128)
    rng = random.Random(5)
    rows = [runner.open() for _ in range(3)]
    for row, length in zip(rows, (3, 90, 41), strict=True):
        runner.append(row, [rng.randrange(VOCABULARY_SIZE) for _ in range(length)])
    found = []
    for call_bytes in (0, LARGE):
        monkeypatch.setattr(lean, "CALL_BYTES", call_bytes)
        found.append(runner.decode(rows, [7, 8, 9]))
        for row in rows:
            runner.truncate(row, row.length - 1)
    alone, together = found
    torch.testing.assert_close(alone, together, rtol=0.05, atol=0.05)
    assert not torch.allclose(alone[0], alone[1], rtol=0.05, atol=0.05)


def test_a_full_runner_says_so() -> None:
    runner = SlotRunner(TransformersForward(tiny_model().base_model), num_slots=1, context_length=8)
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
