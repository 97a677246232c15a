"""The naive computation that the reward service must equal: text on, one full forward a number."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reward_svc.pad_config import Conditioning
from reward_svc.preference_head import PreferenceHead
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


def random_preference_head(embedding_size: int = 32) -> PreferenceHead:
    """Return a head whose vectors are far from 1 and 0, and from each other."""
    torch.manual_seed(4)
    head = PreferenceHead(embedding_size, 32, 16)
    nn.init.normal_(head.output.weight, std=0.4)
    nn.init.normal_(head.output.bias, std=0.2)
    return head.eval()


@dataclass
class Oracle:
    """Recomputes everything from the text on, with one full forward for each number."""

    theta: nn.Module
    reference: nn.Module
    value_head: dict[str, Tensor] | None = None
    conditioning: Conditioning = Conditioning.PROMPT

    @classmethod
    def of(
        cls, architecture: str = "llama", conditioning: Conditioning = Conditioning.PROMPT
    ) -> "Oracle":
        theta, reference = (tiny_model(architecture, n) for n in (THETA_SEED, REFERENCE_SEED))
        return cls(theta, reference, conditioning=conditioning)

    def rewards(
        self, context: RewardContext, written: Sequence[int], candidates: Sequence[int]
    ) -> Tensor:
        """Sum over preferences of w * (log p_theta - log p_ref), normalised over the candidates."""
        ids = torch.tensor(candidates)
        total = torch.zeros(len(candidates))
        for preference in context.preferences:
            logits = self.preference_logits(context, preference.text, written)
            term = logits[ids].log_softmax(0)
            if context.reference is Reference.BACKBONE:
                plain = self.logits(naive_prompt(context.prompt, None), written, is_theta=False)
                term = term - plain[ids].log_softmax(0)
            total += preference.weight * term
        return total

    def preference_logits(
        self, context: RewardContext, preference: str, written: Sequence[int]
    ) -> Tensor:
        """Return theta's logits `[V]` under one preference, which reaches it as conditioned."""
        is_stated = self.conditioning is not Conditioning.VECTOR
        vector = None if self.conditioning is Conditioning.PROMPT else self.vector(preference)
        prompt = naive_prompt(context.prompt, preference if is_stated else None)
        return self.logits(prompt, written, vector=vector)

    @torch.inference_mode()
    def vector(self, preference: str) -> Tensor:
        """Return w_p and b_p `[2D]`: the head written out over the mean of the prompt's states."""
        ids = TOKENIZER(
            f"<|bos|><|user|>{guideline(preference)}", add_special_tokens=False
        ).input_ids
        hidden = self.theta.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        return naive_head(hidden.mean(0), random_preference_head())

    @torch.inference_mode()
    def logits(
        self,
        prompt: list[int],
        written: Sequence[int],
        *,
        is_theta: bool = True,
        vector: Tensor | None = None,
    ) -> Tensor:
        model = self.theta if is_theta else self.reference
        hidden = model.base_model(
            input_ids=torch.tensor([[*prompt, *written]]), use_cache=False
        ).last_hidden_state[0, -1]
        if is_theta and self.value_head is not None:
            weight, bias = self.value_head.values()
            hidden = weight @ hidden + bias
        if vector is not None:
            hidden = vector[: len(hidden)] * hidden + vector[len(hidden) :]
        logits: Tensor = model.get_output_embeddings()(hidden)
        return logits


def naive_head(embedding: Tensor, head: PreferenceHead) -> Tensor:
    """Return w_p and b_p `[2D]` of an embedding `[E]`, by the head's tensors."""
    tensors = head.state_dict()
    centred = embedding - embedding.mean()
    normed = centred / (centred.square().mean() + 1e-5).sqrt()
    inner = tensors["input.weight"] @ normed + tensors["input.bias"]
    inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2  # GELU
    change = tensors["output.weight"] @ inner + tensors["output.bias"]
    size = len(change) // 2
    return torch.cat([1 + change[:size], change[size:]])


def guideline(preference: str) -> str:
    return (
        "[Guidelines] Your task is to generate response by considering the following"
        f" principle. [Principles] {preference} [Instruction] "
    )


def naive_prompt(prompt: Prompt, preference: str | None) -> list[int]:
    """Write the prompt out by hand: byte tokens and the tiny chat template."""
    head = "" if preference is None else guideline(preference)
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
