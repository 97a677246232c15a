from pathlib import Path

import pytest
import torch

from reward_svc.value_head import load_value_head
from tests.tiny_model import tiny_model
from training.backbone import Backbone
from training.dpo import reply_log_probs
from training.export import write_value_head
from training.heads import HeadCollator, HeadTask, LinearHead, VectorHead, new_head
from training.pairs import EncodedPair, make_pair_batch
from training.recipe import HeadSettings

D, E = 32, 5
PAIRS = [
    EncodedPair([1, 5], [1, 5, 9, 9, 4], [6, 7, 8, 2], [9, 2]),
    EncodedPair([1, 3, 3], [1, 3, 3, 7], [5, 2], [4, 4, 4, 4, 2]),
]
EMBEDDINGS = torch.arange(3.0 * E).reshape(3, E).sin()


@pytest.fixture
def backbone() -> Backbone:
    backbone = Backbone(tiny_model())
    backbone.freeze()
    return backbone


@pytest.mark.parametrize("name", ["value", "vector", "both"])
@torch.no_grad()
def test_an_untrained_head_changes_nothing(backbone: Backbone, name: str) -> None:
    batch = make_pair_batch(PAIRS, pad_id=0, guided=name != "vector")
    task = HeadTask(new_head(name, D, E, 8), backbone, HeadSettings())
    found = task.log_probs(batch, EMBEDDINGS[[0, 1]])
    assert torch.allclose(found, reply_log_probs(backbone, batch), atol=1e-5)


@torch.no_grad()
def test_the_value_head_is_w_h_plus_b() -> None:
    head = LinearHead(D)
    head.change.normal_()
    head.bias.normal_()
    hidden = torch.randn(7, D)
    expected = hidden @ head.weight().T + head.bias
    assert torch.allclose(head(hidden, torch.zeros(1, 1), torch.zeros(7)), expected, atol=1e-5)


@torch.no_grad()
def test_each_row_has_its_own_vector() -> None:
    head = VectorHead(E, D, 8)
    torch.nn.init.normal_(head.head.output.weight)
    hidden, rows = torch.randn(3, D), torch.tensor([0, 1, 0])
    found = head(hidden, EMBEDDINGS[:2], rows)
    for state, row, result in zip(hidden, rows, found, strict=True):
        scale, shift = head.head(EMBEDDINGS[row : row + 1])[0].chunk(2)
        assert torch.allclose(result, scale * state + shift, atol=1e-6)


@pytest.mark.parametrize("name", ["value", "vector", "both"])
def test_a_head_learns_and_the_backbone_stays(backbone: Backbone, name: str) -> None:
    before = backbone.model.get_output_embeddings().weight.clone()
    task = HeadTask(new_head(name, D, E, 8), backbone, HeadSettings())
    collate = HeadCollator(
        PAIRS, torch.full((2, 2), -20.0), EMBEDDINGS, [2, 0], 0, name != "vector", None
    )
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.02)
    losses = []
    for _ in range(20):
        loss = task(**collate([0, 1]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(backbone.model.get_output_embeddings().weight, before)


def test_the_value_head_round_trips(tmp_path: Path) -> None:
    weight, bias = torch.randn(D, D), torch.randn(D)
    write_value_head(weight, bias, tmp_path / "value_head.safetensors")
    head = load_value_head(tmp_path, D, "required")
    assert head is not None
    assert torch.equal(head.weight, weight)
    assert torch.equal(head.bias, bias)
