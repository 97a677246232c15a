"""What others offer on the same weights: transformers' ways to generate, and a loop without cache.

All greedy, on one thread, with no end of turn, as the engine's contenders.
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from benchmarks.make_models import BASE, THETA
from benchmarks.rounds import Sample, trapezoid_mean
from svc_common.lm.loading import load_model

NO_END = -1  # an id that no token has
PAGE = 32
MAX_BATCH_TOKENS = 256


class LibraryContenders:
    """transformers' `generate`, its continuous batching, and decoding without KV cache."""

    def __init__(self, pair: Path, num_slots: int, context_length: int) -> None:
        self._pair = pair
        self._num_slots = num_slots
        self._context_length = context_length
        self._base = _load(pair / BASE)
        self._theta: Any = None
        self._paged: Any = None

    def generate_steady(self, prompts: list[list[int]], num_steps: int) -> Sample:
        """Let `generate` write `num_steps` tokens after the first."""
        times: list[float] = []

        def note(ids: Tensor, scores: Tensor, **_: object) -> Tensor:
            times.append(time.perf_counter())
            return torch.zeros(ids.shape[0], dtype=torch.bool)

        start = time.perf_counter()
        self._generate(prompts, num_steps + 1, stopping_criteria=[note])
        step_s = (times[-1] - times[0]) / num_steps
        return {
            "step_ms": 1e3 * step_s,
            "tokens_per_s": len(prompts) / step_s,
            "first_token_ms": 1e3 * (times[0] - start),
        }

    def generate_mixed(self, prompts: list[list[int]], num_tokens: list[int]) -> Sample:
        """Let `generate` write one static batch, which runs until its longest answer is done."""
        start = time.perf_counter()
        self._generate(prompts, max(num_tokens))
        return {"tokens_per_s": sum(num_tokens) / (time.perf_counter() - start)}

    def continuous_mixed(self, prompts: list[list[int]], num_tokens: list[int]) -> Sample:
        """Let continuous batching write answers of different lengths; start and stop not timed."""
        if self._paged is None:  # its kind of attention is set on the model, so it gets its own
            self._paged = _load(self._pair / BASE)
        longest = max(map(len, prompts)) + max(num_tokens)
        config = ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=self._num_slots * (-(-longest // PAGE) + 1),
            max_batch_tokens=max(MAX_BATCH_TOKENS, len(prompts)),
            allow_block_sharing=False,
        )
        settings = GenerationConfig(
            do_sample=False, eos_token_id=NO_END, pad_token_id=0, max_new_tokens=max(num_tokens)
        )
        with (
            torch.no_grad(),  # inference mode does not reach its own thread
            self._paged.continuous_batching_context_manager(
                generation_config=settings, continuous_batching_config=config
            ) as manager,
        ):
            start = time.perf_counter()
            for prompt, count in zip(prompts, num_tokens, strict=True):
                manager.add_request(prompt, max_new_tokens=count, eos_token_id=NO_END)
            num_written = self._collect(manager, len(prompts))
            seconds = time.perf_counter() - start
        if num_written != sum(num_tokens):
            raise RuntimeError(f"continuous batching: wrote {num_written} of {sum(num_tokens)}")
        return {"tokens_per_s": num_written / seconds}

    def no_cache(self, num_prompt: int, num_new: int, num_places: int) -> Sample:
        """Time steps of both models over the whole prefix, at a few of its lengths.

        The mean over all steps is integrated from these; every step is one forward of each model,
        of which only the last position's logits are computed.
        """
        if self._theta is None:
            self._theta = load_model(
                self._pair / THETA,
                dtype="float32",
                device="cpu",
                context_length=self._context_length,
                setting="pair",
            ).model
        last = num_new - 1
        lengths = [num_prompt + last * i // max(1, num_places - 1) for i in range(num_places)]
        seconds = [self._no_cache_step(length) for length in lengths]
        return {"step_ms": 1e3 * trapezoid_mean(lengths, seconds), "num_timed": float(num_places)}

    def close(self) -> None:
        """Nothing runs between two calls."""

    @torch.inference_mode()
    def _no_cache_step(self, length: int) -> float:
        ids = (torch.arange(length) * 7919 % 4000 + 6).unsqueeze(0)  # [1, T]
        start = time.perf_counter()
        base = self._base(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1]  # [V]
        theta = self._theta(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1]
        best = base.log_softmax(-1).topk(10)
        score = best.values + theta[best.indices].log_softmax(-1) - best.values.log_softmax(-1)
        int(best.indices[score.argmax()])
        return time.perf_counter() - start

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]], num_tokens: int, **options: object) -> None:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])  # [B, T]
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        self._base.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
            **options,
        )

    @staticmethod
    def _collect(manager: Any, num_requests: int) -> int:
        """Return the tokens written once all requests are finished."""
        num_written = num_finished = 0
        while num_finished < num_requests:
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                num_finished += 1
                num_written += len(result.generated_tokens)
            elif result is None and not manager.is_running():
                break
        return num_written


def _load(folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, attn_implementation="sdpa"
    )
    model.generation_config.eos_token_id = None  # nothing ends an answer but its length
    return model.eval().requires_grad_(False)
