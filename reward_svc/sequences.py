"""Score whole answers to one prompt, a chunk at a time. Runs on the model thread."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from reward_svc import scoring
from reward_svc.preference_head import apply_vectors
from reward_svc.prompts import Plan
from reward_svc.sessions import SessionCache
from svc_common.errors import OverloadedError
from svc_common.lm.head import Head
from svc_common.lm.slots import Row


def score_answers(
    cache: SessionCache, plan: Plan, answers: Sequence[Sequence[int]]
) -> Generator[int, None, list[float]]:
    """Return the reward of each answer: the sum over the plan's terms, over all its tokens.

    Takes one row of the cache a group and yields after each forward how many tokens it ran. Each
    prompt is run once, and each answer behind it in turn, however many terms need it.

    Raises:
        OverloadedError: Not enough rows are free.
    """
    rewards = [0.0] * len(answers)
    groups = sorted({prompt.group for prompt in plan.prompts})
    if len(groups) > cache.runner.num_free:
        free = cache.runner.num_free
        raise OverloadedError(f"num_slots: the call needs {len(groups)} rows, {free} are free")
    with ExitStack() as stack:
        rows: dict[int, Row] = {}
        for group in groups:
            rows[group] = cache.runner.open(group)
            stack.callback(cache.runner.close, rows[group])
        vectors = yield from cache.vectors(plan)
        scorers = _scorers(cache, plan, vectors)
        for prompt, scorer in zip(plan.prompts, scorers, strict=True):
            row = rows[prompt.group]
            cache.runner.truncate(row, 0)
            last, _ = yield from cache.fill(row, prompt)  # [1, D]
            for i, answer in enumerate(answers):
                if not answer:
                    continue
                cache.runner.truncate(row, len(prompt.token_ids))
                rewards[i] += scorer.reward(last, _tensor(cache, answer[:1]))
                start = 0
                while start < len(answer) - 1:
                    end = min(start + cache.pace.left, len(answer) - 1)
                    hidden = cache.run(row, answer[start:end], all_positions=True)
                    following = _tensor(cache, answer[start + 1 : end + 1])  # [T]
                    rewards[i] += scorer.reward(hidden, following)
                    yield end - start
                    start = end
    return rewards


@dataclass(frozen=True)
class _RowScorer:
    """What one row's hidden states give: `terms` holds weights, with a vector `[2D]` or None."""

    head: Head
    terms: list[tuple[float, Tensor | None]]

    @torch.inference_mode()
    def reward(self, hidden: Tensor, token_ids: Tensor) -> float:
        """Return the weighted log-probability of tokens `[T]` behind hidden states `[T, D]`."""
        total = 0.0
        for weight, vector in self.terms:
            changed = hidden if vector is None else apply_vectors(hidden, vector)
            total += weight * scoring.sequence_logprob(self.head.logits(changed), token_ids)
        return total


def _scorers(cache: SessionCache, plan: Plan, vectors: Tensor | None) -> list[_RowScorer]:
    """Return one scorer a prompt; `vectors` `[P, 2D]` as `SessionCache.vectors` gives them."""
    scorers = [_RowScorer(cache.model.heads[prompt.group], []) for prompt in plan.prompts]
    remaining = iter(() if vectors is None else vectors)
    for term in plan.terms:
        vector = None if term.preference is None else next(remaining)
        scorers[term.row].terms.append((term.weight, vector))
    return scorers


def _tensor(cache: SessionCache, token_ids: Sequence[int]) -> Tensor:
    return torch.tensor(token_ids, device=cache.model.device)
