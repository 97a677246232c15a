"""PAD written out as the paper and the released code state it: no cache, no batch, no shortcuts.

Every step runs the full prefix through every model in float32. Forwards are memoised by their
token ids, as the same prefix recurs over strengths and rules; what is computed does not change.
"""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

TEMPLATE = (
    "[Guidelines] Your task is to generate response by considering the following principle."
    " [Principles] {preference} [Instruction] {instruction}"
)
Chat = list[dict[str, str]]
Vector = tuple[Tensor, Tensor]
"""w_p and b_p, `[D]` each."""


class NaivePad:
    """Greedy PAD over the base model's K likeliest tokens.

    How a preference reaches theta is what its folder's pad_config.json says.
    """

    def __init__(self, base_dir: Path, theta_dir: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(base_dir, local_files_only=True)
        self.base = self._load(base_dir)
        self.theta = self._load(theta_dir)
        config = json.loads((theta_dir / "pad_config.json").read_text())
        self.conditioning = config.get("conditioning", "prompt")
        self._head = {}
        if self.conditioning != "prompt":
            assert not (theta_dir / "preference_encoder").exists(), "theta encodes here"
            self._head = load_file(theta_dir / f"{self.conditioning}_head.safetensors")
        self._logits = cache(self._forward)
        self.vector = cache(self._vector)

    @staticmethod
    def _load(folder: Path) -> torch.nn.Module:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
        return model.eval()

    @torch.inference_mode()
    def _forward(self, name: str, ids: tuple[int, ...], preference: str = "") -> Tensor:
        """Return the logits behind `ids`, with the vector of `preference` if one is named."""
        model = self.base if name == "base" else self.theta
        if not preference:
            return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        scale, shift = self.vector(preference)
        return model.lm_head(scale * self._states(ids)[-1] + shift)

    def _states(self, ids: tuple[int, ...]) -> Tensor:
        """Return theta's last hidden states: `[T, D]`."""
        ids = torch.tensor([ids])
        return self.theta.model(input_ids=ids, use_cache=False).last_hidden_state[0]

    @torch.inference_mode()
    def _vector(self, preference: str) -> Vector:
        """Return w_p and b_p: the head over the mean state of the prompt up to the instruction."""
        empty, other = (
            self._ids(
                [
                    {
                        "role": "user",
                        "content": TEMPLATE.format(preference=preference, instruction=instruction),
                    }
                ]
            )
            for instruction in ("", "x")
        )
        pairs = enumerate(zip(empty, other, strict=False))
        length = next(i for i, (one, two) in pairs if one != two)
        embedding = self._states(empty[:length]).mean(0)
        head = self._head
        normed = functional.layer_norm(embedding, embedding.shape)
        inner = functional.gelu(head["input.weight"] @ normed + head["input.bias"])
        change = head["output.weight"] @ inner + head["output.bias"]
        size = len(change) // 2
        return 1 + change[:size], change[size:]

    def _ids(self, chat: Chat) -> tuple[int, ...]:
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def generate(
        self, rule: str, chat: Chat, preference: str, beta: float, k: int, num_tokens: int
    ) -> tuple[list[int], float]:
        """Return the tokens, and the smallest gap between best and second score on the way."""
        plain = self._ids(chat)
        first = next(i for i, message in enumerate(chat) if message["role"] == "user")
        guided_chat = [dict(message) for message in chat]
        guided_chat[first]["content"] = TEMPLATE.format(
            preference=preference, instruction=chat[first]["content"]
        )
        guided = self._ids(guided_chat) if self.conditioning != "vector" else plain
        vectored = preference if self.conditioning != "prompt" else ""
        answer: list[int] = []
        gap = float("inf")
        while len(answer) < num_tokens:
            tail = tuple(answer)
            base = self._logits("base", plain + tail)
            candidates = base.topk(k).indices
            theta = self._logits("theta", guided + tail, vectored)
            score = self._score(rule, base, theta, plain + tail, candidates, beta)
            best = score.topk(2).values
            gap = min(gap, float(best[0] - best[1]))
            answer.append(int(candidates[score.argmax()]))
            if answer[-1] == self.tokenizer.eos_token_id:
                break
        return answer, gap

    def _score(
        self,
        rule: str,
        base: Tensor,
        theta: Tensor,
        plain: tuple[int, ...],
        candidates: Tensor,
        beta: float,
    ) -> Tensor:
        """Source: arXiv 2410.04070, equation 13; PAD's released code, inference/PAD.py."""
        if rule == "pad":
            reference = self._logits("base", plain)  # the demo PersRM's backbone is the base model
            reward = torch.log_softmax(theta, -1) - torch.log_softmax(reference, -1)
            return torch.log_softmax(base, -1)[candidates] + beta * reward[candidates]
        reward = torch.log_softmax(theta[candidates], -1) - torch.log_softmax(base[candidates], -1)
        return beta * reward + base[candidates]
