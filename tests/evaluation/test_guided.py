import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evaluation.attributes import summarise
from evaluation.guided import Guidance, choose, guided_replies

PROMPTS = [([1, 5, 6], [1, 5, 9, 9, 6]), ([1, 3], [1, 7, 3, 3]), ([1, 8, 8, 8, 8], [1, 8])]


def small_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=12,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        initializer_range=0.5,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def naive_reply(
    base: LlamaForCausalLM,
    theta: LlamaForCausalLM,
    plain: list[int],
    guided: list[int],
    beta: float,
) -> list[int]:
    reply: list[int] = []
    while len(reply) < 8 and 2 not in reply:
        base_row = base(torch.tensor([[*plain, *reply]])).logits[0, -1].log_softmax(-1)
        theta_row = theta(torch.tensor([[*guided, *reply]])).logits[0, -1].log_softmax(-1)
        best = base_row.topk(4).indices.tolist()
        scores = {i: float(base_row[i] + beta * (theta_row[i] - base_row[i])) for i in best}
        reply.append(max(scores, key=scores.__getitem__))
    return reply


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_batched_replies_equal_one_at_a_time_without_cache(beta: float) -> None:
    base, theta = small_model(0), small_model(1)
    replies = guided_replies(base, theta, PROMPTS, Guidance(beta, num_candidates=4), 8)
    assert replies == [naive_reply(base, theta, *prompt, beta) for prompt in PROMPTS]


def test_choice_stays_within_candidates() -> None:
    base = torch.tensor([[0.0, -1.0, -9.0]])
    theta = torch.tensor([[-9.0, 0.0, 99.0]])
    assert choose(base, theta, torch.zeros(1, 3), Guidance(5.0, 2)).tolist() == [1]


def test_attributes_are_counted() -> None:
    figures = summarise(["Sure! I hope you enjoy it!", "Would you like 2 rooms?"], [True, False])
    assert figures["words"] == 5.5
    assert figures["exclamations"] == 1.0
    assert figures["questions"] == figures["formal"] == figures["casual"] == 0.5
    assert figures["chat_share"] == figures["digit_groups"] == figures["ended_share"] == 0.5
