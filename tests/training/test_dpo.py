import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from training.dpo import dpo_loss, reply_log_probs
from training.pairs import EncodedPair, make_pair_batch

PAIRS = [
    EncodedPair([1, 5], [1, 5, 9, 9, 4], [6, 7, 8, 2], [9, 2]),
    EncodedPair([1, 3, 3], [1, 3, 3, 7], [5, 2], [4, 4, 4, 4, 2]),
]


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=12,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


def naive_log_prob(model: LlamaForCausalLM, prompt: list[int], reply: list[int]) -> float:
    log_probs = model(input_ids=torch.tensor([[*prompt, *reply]])).logits[0].log_softmax(-1)
    return sum(float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(reply))


@pytest.mark.parametrize("guided", [True, False])
@torch.no_grad()
def test_replies_in_one_row_score_as_if_alone(model: LlamaForCausalLM, guided: bool) -> None:
    scores = reply_log_probs(model, make_pair_batch(PAIRS, pad_id=0, guided=guided))
    for row, pair in zip(scores.tolist(), PAIRS, strict=True):
        prompt = pair.guided_prompt if guided else pair.plain_prompt
        assert row[0] == pytest.approx(naive_log_prob(model, prompt, pair.chosen), abs=1e-4)
        assert row[1] == pytest.approx(naive_log_prob(model, prompt, pair.rejected), abs=1e-4)


def test_reply_lengths_are_counted() -> None:
    batch = make_pair_batch(PAIRS, pad_id=0, guided=True)
    assert batch.lengths.tolist() == [[4.0, 2.0], [2.0, 5.0]]


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
