"""Log-probabilities and rewards of an answer by full forwards over its text, without any cache."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from svc_common.preference_prompt import ChatMessage
from tests.faults.models import Folders
from tests.faults.scenario import Ask
from tests.reward_svc.oracle import naive_prompt


@dataclass
class Recompute:
    """The stack's models, in this process, for the tiny byte tokenizer's prompts."""

    folders: Folders

    @cached_property
    def _models(self) -> dict[str, nn.Module]:
        folders = {"base": self.folders.base, "backbone": self.folders.backbone}
        folders |= self.folders.theta
        return {name: _load(folder) for name, folder in folders.items()}

    @torch.inference_mode()
    def _logits(self, name: str, prompt: list[int], answer: list[int]) -> Tensor:
        """Return the logits before each token of the answer: `[T, V]`."""
        ids = torch.tensor([[*prompt, *answer]])
        logits: Tensor = self._models[name](input_ids=ids, use_cache=False).logits
        return logits[0, len(prompt) - 1 : -1]

    def logprobs(self, ask: Ask, answer: list[int]) -> Tensor:
        """Return ln p_base at each position: `[T, V]`."""
        plain = naive_prompt((ChatMessage("user", ask.text),), None)
        return self._logits("base", plain, answer).log_softmax(-1)

    def rewards(self, ask: Ask, answer: list[int], candidates: Tensor, version: str) -> Tensor:
        """Return the rewards of the candidates `[T, K]` at each position.

        Source: arXiv 2410.04070, equation 13; PAD's released code, inference/PAD.py.
        """
        prompt = (ChatMessage("user", ask.text),)
        reference = "backbone" if ask.strategy == "pad" else "base"
        against = self._logits(reference, naive_prompt(prompt, None), answer)
        against = against.gather(1, candidates).log_softmax(-1)  # [T, K]
        total = torch.zeros(candidates.shape)
        for text, weight in ask.wishes:
            theta = self._logits(version, naive_prompt(prompt, text), answer)
            total += weight * (theta.gather(1, candidates).log_softmax(-1) - against)
        return total


def _load(folder: Path) -> nn.Module:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval()
