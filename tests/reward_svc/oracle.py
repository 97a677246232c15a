"""The naive computation that the reward service must equal: text on, one full forward a number."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reward_svc.prompts import Reference, RewardContext
from svc_common.preference_prompt import Prompt
from tests.tiny_model import tiny_model, tiny_tokenizer

THETA_SEED, REFERENCE_SEED = 1, 2
TOKENIZER = tiny_tokenizer()


def value_head_tensors() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {
        "v_head.summary.weight": torch.eye(32) + 0.2 * torch.randn(32, 32),
        "v_head.summary.bias": 0.2 * torch.randn(32),
    }


@dataclass
class Oracle:
    """Recomputes everything from the text on, with one full forward for each number."""

    theta: nn.Module
    reference: nn.Module
    value_head: dict[str, Tensor] | None = None

    @classmethod
    def of(cls, architecture: str = "llama") -> "Oracle":
        return cls(tiny_model(architecture, THETA_SEED), tiny_model(architecture, REFERENCE_SEED))

    def rewards(
        self, context: RewardContext, written: Sequence[int], candidates: Sequence[int]
    ) -> Tensor:
        """Sum over preferences of w * (log p_theta - log p_ref), normalised over the candidates."""
        ids = torch.tensor(candidates)
        total = torch.zeros(len(candidates))
        for preference in context.preferences:
            logits = self.logits(naive_prompt(context.prompt, preference.text), written)
            term = logits[ids].log_softmax(0)
            if context.reference is Reference.BACKBONE:
                plain = self.logits(naive_prompt(context.prompt, None), written, is_theta=False)
                term = term - plain[ids].log_softmax(0)
            total += preference.weight * term
        return total

    @torch.inference_mode()
    def logits(self, prompt: list[int], written: Sequence[int], *, is_theta: bool = True) -> Tensor:
        model = self.theta if is_theta else self.reference
        hidden = model.base_model(
            input_ids=torch.tensor([[*prompt, *written]]), use_cache=False
        ).last_hidden_state[0, -1]
        if is_theta and self.value_head is not None:
            weight, bias = self.value_head.values()
            hidden = weight @ hidden + bias
        logits: Tensor = model.get_output_embeddings()(hidden)
        return logits


def naive_prompt(prompt: Prompt, preference: str | None) -> list[int]:
    """Write the prompt out by hand: byte tokens and the tiny chat template."""
    head = (
        ""
        if preference is None
        else "[Guidelines] Your task is to generate response by considering the following"
        f" principle. [Principles] {preference} [Instruction] "
    )
    if isinstance(prompt, str):
        text = head + prompt
    else:
        text, is_guided = "<|bos|>", False
        for message in prompt:
            is_first_user = message.role == "user" and not is_guided
            is_guided = is_guided or is_first_user
            text += f"<|{message.role}|>{head if is_first_user else ''}{message.content}<|end|>"
        text += "<|assistant|>"
    ids: list[int] = TOKENIZER(text, add_special_tokens=False).input_ids
    return ids
