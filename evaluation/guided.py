"""PAD decoding in its plainest form, to look at what a trained reward model does to replies."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM


@dataclass(frozen=True)
class Guidance:
    """How strongly rewards count among how many of the base model's candidates."""

    beta: float  # 0 is the base model alone
    num_candidates: int = 10  # K


class Rows:
    """Left-padded prompts and their key-value cache; each call moves all rows by one token."""

    def __init__(self, model: LlamaForCausalLM, prompts: Sequence[list[int]]) -> None:
        self._model = model
        self._cache = DynamicCache(config=model.config)
        longest = max(map(len, prompts))
        padding = [[0] * (longest - len(prompt)) for prompt in prompts]
        self._seen = torch.tensor(
            [[*pad, *[1] * len(prompt)] for pad, prompt in zip(padding, prompts, strict=True)]
        )  # [B, T]
        self.log_probs = self._forward(
            torch.tensor([[*pad, *p] for pad, p in zip(padding, prompts, strict=True)])
        )  # [B, V] of the next token

    def append(self, token_ids: Tensor) -> None:
        """Add one token to every row.

        Args:
            token_ids: `[B]` int64.
        """
        self._seen = torch.cat([self._seen, torch.ones_like(self._seen[:, :1])], dim=1)
        self.log_probs = self._forward(token_ids.unsqueeze(1))  # [B, V]

    def _forward(self, token_ids: Tensor) -> Tensor:
        positions = (self._seen.cumsum(1) - 1).clamp(min=0)[:, -token_ids.shape[1] :]
        logits: Tensor = self._model(
            input_ids=token_ids,
            attention_mask=self._seen,
            position_ids=positions,
            past_key_values=self._cache,
            logits_to_keep=1,
        ).logits[:, -1]  # [B, V]
        return logits.float().log_softmax(-1)


def choose(base: Tensor, theta: Tensor, reference: Tensor, guidance: Guidance) -> Tensor:
    """Return the best of the base model's top-K tokens, `[B]`.

    Args:
        base: `[B, V]` log-probabilities; likewise `theta` and `reference`.

    Source: PAD eq. 13 (arXiv:2410.04070).
    """
    values, candidates = base.topk(guidance.num_candidates, dim=-1)  # [B, K]
    rewards = (theta - reference).gather(1, candidates)  # [B, K]
    best = (values + guidance.beta * rewards).argmax(-1, keepdim=True)  # [B, 1]
    return candidates.gather(1, best).squeeze(1)  # [B]


@torch.no_grad()
def guided_replies(
    base: LlamaForCausalLM,
    theta: LlamaForCausalLM,
    prompts: Sequence[tuple[list[int], list[int]]],
    guidance: Guidance,
    max_new_tokens: int,
) -> list[list[int]]:
    """Return a reply per prompt, ending with the end token unless it was cut off.

    The demo reward model's reference is the base model itself, so its forward serves as both.

    Args:
        prompts: token ids without and with the stated preference.
    """
    end_id = int(base.config.eos_token_id)
    plain = Rows(base, [prompt for prompt, _ in prompts])
    guided = Rows(theta, [prompt for _, prompt in prompts])
    replies: list[list[int]] = [[] for _ in prompts]
    for _ in range(max_new_tokens):
        tokens = choose(plain.log_probs, guided.log_probs, plain.log_probs, guidance)
        for reply, token in zip(replies, tokens.tolist(), strict=True):
            if not reply or reply[-1] != end_id:
                reply.append(token)
        if all(reply[-1] == end_id for reply in replies):
            break
        plain.append(tokens)
        guided.append(tokens)
    return replies
