import math

import pytest
import torch

from training.dpo import dpo_loss
from training.pairs import EncodedPair, make_pair_batch, pair_mask

PAIRS = [
    EncodedPair([1, 5], [1, 5, 9, 9, 4], [6, 7, 8, 2], [9, 2]),
    EncodedPair([1, 3, 3], [1, 3, 3, 7], [5, 2], [4, 4, 4, 4, 2]),
]


def test_reply_lengths_are_counted() -> None:
    batch = make_pair_batch(PAIRS, pad_id=0, guided=True)
    assert batch.lengths.tolist() == [[4.0, 2.0], [2.0, 5.0]]


def test_rejected_tokens_see_the_prompt_and_themselves() -> None:
    batch = make_pair_batch(PAIRS, pad_id=0, guided=False)
    seen = pair_mask(batch.kinds)[0, 0]
    first_rejected = 2 + 4  # prompt, chosen
    assert seen[first_rejected].tolist() == [True, True, *[False] * 4, True, False, False, False]


def test_loss_equals_naive_formula() -> None:
    theta = torch.tensor([[-3.0, -5.0], [-7.0, -4.0]])
    reference = torch.tensor([[-4.0, -4.5], [-6.0, -6.5]])
    lengths = torch.tensor([4.0, 2.0])
    expected = 0.0
    for t, r, n in zip(theta.tolist(), reference.tolist(), lengths.tolist(), strict=True):
        margin = 0.2 * ((t[0] - r[0]) - (t[1] - r[1]))
        expected += -math.log(1 / (1 + math.exp(-margin))) + 0.3 * -t[0] / n
    loss = dpo_loss(theta, reference, lengths, beta=0.2, nll_weight=0.3)
    assert float(loss) == pytest.approx(expected / 2, rel=1e-6)


def test_equal_models_have_loss_log_2() -> None:
    scores = torch.tensor([[-3.0, -5.0]])
    loss = dpo_loss(scores, scores, torch.tensor([4.0]), beta=0.1, nll_weight=0.0)
    assert float(loss) == pytest.approx(math.log(2))
