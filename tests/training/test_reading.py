import pytest
import torch
from torch.nn import functional

from tests.tiny_model import tiny_model
from training.backbone import Backbone
from training.pair_file import Pair
from training.pairs import EncodedPair
from training.reading import (
    ReadingCollator,
    ReadingTask,
    check_probe_layer,
    check_probe_start,
    label_numbers,
)
from training.recipe import ReadingSettings
from training.recipe_file import RecipeError

PAD, FIRST = 0, 3
PAIRS = [
    EncodedPair([1], [1, 5, 6, 7], [8, 2], [3]),
    EncodedPair([1], [1, 4, 9], [3, 2], [3]),
]
LABELS = [[0], [1, 2]]


@pytest.fixture
def task() -> ReadingTask:
    backbone = Backbone(tiny_model())
    return ReadingTask(backbone, 3, ReadingSettings(probe_layer=1, probe_start=FIRST))


@torch.no_grad()
def test_loss_equals_naive_sum_without_padding(task: ReadingTask) -> None:
    probe, words = [], []
    for pair, labels in zip(PAIRS, LABELS, strict=True):
        ids = torch.tensor([[*pair.guided_prompt, *pair.chosen]])
        output = task.model.base_model(input_ids=ids, output_hidden_states=True)
        middle = output.hidden_states[1]
        logits = task.probe(functional.rms_norm(middle, middle.shape[-1:]))
        for position in range(FIRST, ids.shape[1]):
            row = logits[0, position].log_softmax(-1)
            probe.append(-sum(float(row[label]) for label in labels) / len(labels))
        rows = task.model(input_ids=ids).logits[0].log_softmax(-1)
        start = len(pair.guided_prompt)
        words += [-float(rows[start - 1 + i, token]) for i, token in enumerate(pair.chosen)]
    expected = sum(probe) / len(probe) + sum(words) / len(words)
    loss = task(**ReadingCollator(PAIRS, LABELS, 3, PAD)([0, 1]))
    assert float(loss) == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_rows_that_end_before_the_probe_starts_give_the_replies_loss_alone() -> None:
    backbone = Backbone(tiny_model())
    batch = ReadingCollator(PAIRS, LABELS, 3, PAD)([0, 1])
    loss = ReadingTask(backbone, 3, ReadingSettings(probe_layer=1, probe_start=6))(**batch)
    whole = ReadingTask(backbone, 3, ReadingSettings(probe_layer=1, probe_start=FIRST))(**batch)
    assert 0 < float(loss) < float(whole)


def test_a_probe_outside_the_model_or_behind_all_rows_is_refused() -> None:
    settings = ReadingSettings(num_steps=1, probe_layer=3, probe_start=6)
    check_probe_layer(settings, 3)
    with pytest.raises(RecipeError, match=r"^reading.probe_layer: must be at most .* 2, got 3$"):
        check_probe_layer(settings, 2)
    check_probe_start(settings, [4, 7])
    with pytest.raises(RecipeError, match=r"^reading.probe_start: must be below .* 6 .*, got 6$"):
        check_probe_start(settings, [4, 6])


def test_probe_learns_labels(task: ReadingTask) -> None:
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.02)
    batch = ReadingCollator(PAIRS, LABELS, 3, PAD)([0, 1])
    losses = []
    for _ in range(20):
        loss = task(**batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_labels_become_numbers() -> None:
    pairs = [Pair((), "", "", "", labels) for labels in (("b",), (), ("a", "b"))]
    assert label_numbers(pairs) == ([[1], [], [0, 1]], ["a", "b"])
