"""Ways to decode that were not taken, timed next to the one that was."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, StaticCache

from benchmarks.make_models import BASE, THETA
from benchmarks.rounds import Sample
from svc_common.lm.loading import LoadedModel, load_model
from svc_common.lm.runner import SlotRunner

NUM_CANDIDATES = 10
NUM_WARM_UP = 3


class Alternatives:
    """One process, one thread, one core; calls are named `alternative_...`."""

    def __init__(self, pair: Path, num_slots: int, context_length: int) -> None:
        self._pair = pair
        self._num_slots = num_slots
        self._context_length = context_length
        self._loaded: dict[str, LoadedModel] = {}
        self._compiled: dict[int, Callable[[], object]] = {}

    def alternative_forward(self, kind: str, batch: int, num_prompt: int, num_steps: int) -> Sample:
        """Time decode forwards of `batch` rows without the output layer.

        Args:
            kind: `lean` or `transformers` as served; `compiled`: transformers' own, with a static
                cache, compiled by torch for this batch.
        """
        if kind == "compiled":
            if batch not in self._compiled:
                self._compiled[batch] = self._compile(batch, num_prompt)
            return {"step_ms": _median_ms(self._compiled[batch], num_steps)}
        runner = self._runner(BASE, kind, batch)
        rows = [runner.open() for _ in range(batch)]
        for row in rows:
            runner.append(row, _prompt(num_prompt))
        return {"step_ms": _median_ms(lambda: runner.decode(rows, [7] * batch), num_steps)}

    def alternative_speculation(self, num_prompt: int, num_tokens: int, drafts: int) -> Sample:
        """Write with guidance, and say what drafts of `drafts` tokens would have cost.

        Returns:
            kept: share of tokens that guidance left as they were. tokens_per_round: of a draft,
            those up to and with the first correction, counted on this very text. base_ms,
            reward_ms: a forward of one token; draft_ms, score_ms: all of a round's forwards of
            the base, and the reward's one over all its positions.
        """
        base, theta = (self._runner(name, "lean", 1) for name in (BASE, THETA))
        heads = [self._load(name).head() for name in (BASE, THETA)]
        rows = [base.open(), theta.open()]
        states = [
            runner.append(row, _prompt(num_prompt))
            for runner, row in zip((base, theta), rows, strict=True)
        ]
        noise = torch.Generator().manual_seed(0)
        is_kept: list[bool] = []
        for _ in range(num_tokens):
            logits = [head.logits(state) for head, state in zip(heads, states, strict=True)]
            token_id, was_kept = _choose(logits[0], logits[1], noise)
            is_kept.append(was_kept)
            states = [base.decode(rows[:1], [token_id]), theta.decode(rows[1:], [token_id])]

        def score() -> None:
            theta.extend(rows[1:], [[7] * drafts])
            theta.truncate(rows[1], rows[1].length - drafts)

        def step(runner: SlotRunner, index: int) -> Callable[[], object]:
            return lambda: runner.decode([rows[index]], [7])

        base_ms = _median_ms(step(base, 0), 20)
        return {
            "kept": sum(is_kept) / num_tokens,
            "tokens_per_round": num_tokens / count_rounds(is_kept, drafts),
            "base_ms": base_ms,
            "reward_ms": _median_ms(step(theta, 1), 20),
            "draft_ms": drafts * base_ms,
            "score_ms": _median_ms(score, 20),
        }

    def close(self) -> None:
        """Nothing runs between two calls."""

    def _load(self, name: str) -> LoadedModel:
        if name not in self._loaded:
            self._loaded[name] = load_model(
                self._pair / name,
                dtype="float32",
                device="cpu",
                context_length=self._context_length,
                setting="pair",
            )
        return self._loaded[name]

    def _runner(self, name: str, kind: str, num_slots: int) -> SlotRunner:
        return self._load(name).network(kind).new_runner(num_slots)

    def _compile(self, batch: int, num_prompt: int) -> Callable[[], object]:
        model: Any = AutoModelForCausalLM.from_pretrained(
            self._pair / BASE, dtype=torch.float32, local_files_only=True
        ).base_model.eval()
        cache = StaticCache(config=model.config, max_cache_len=self._context_length)
        ids = torch.tensor([_prompt(num_prompt)] * batch)  # [B, T]
        with torch.no_grad():
            model(input_ids=ids, past_key_values=cache, use_cache=True)
        compiled: Any = torch.compile(model, dynamic=False)

        @torch.no_grad()
        def step() -> object:
            return compiled(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)

        return step


def _choose(base: Tensor, theta: Tensor, noise: torch.Generator) -> tuple[int, bool]:
    """Sample a guided token, and say whether the base alone would have drawn it too.

    By the same noise for both, as served; greedy texts of random models repeat one token for ever.
    """
    best = base[0].float().log_softmax(-1).topk(NUM_CANDIDATES)
    candidates = best.indices
    reward = theta[0].float()[candidates].log_softmax(-1) - best.values.log_softmax(-1)
    gumbel = -torch.empty(NUM_CANDIDATES).exponential_(generator=noise).log()
    column = int((best.values + reward + gumbel).argmax())
    return int(candidates[column]), column == int((best.values + gumbel).argmax())


def count_rounds(is_kept: Sequence[bool], drafts: int) -> int:
    """Return in how many rounds a text is written whose unchanged tokens are known."""
    position = num_rounds = 0
    while position < len(is_kept):
        num_right = 0
        while num_right < drafts and is_kept[min(position + num_right, len(is_kept) - 1)]:
            num_right += 1
        position += min(num_right + 1, drafts)  # the first wrong one is corrected
        num_rounds += 1
    return num_rounds


def _prompt(num_tokens: int) -> list[int]:
    return [6 + 7919 * i % 4000 for i in range(num_tokens)]


def _median_ms(work: Callable[[], object], count: int) -> float:
    seconds = []
    for _ in range(NUM_WARM_UP + count):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds[NUM_WARM_UP:])
