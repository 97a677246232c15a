"""Score whole answers to one prompt, a chunk at a time. Runs on the model thread."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack

import torch

from reward_svc import scoring
from reward_svc.prompts import RowPrompt
from reward_svc.sessions import SessionCache
from svc_common.errors import OverloadedError
from svc_common.lm.head import Head
from svc_common.lm.slots import Row


def score_answers(
    cache: SessionCache, prompts: Sequence[RowPrompt], answers: Sequence[Sequence[int]]
) -> Generator[int, None, list[float]]:
    """Return the reward of each answer: of each prompt's row, weighted, the log-probability.

    Takes one row of the cache a group and yields after each forward how many tokens it ran. Each
    prompt is run once, and each answer behind it in turn.

    Raises:
        OverloadedError: Not enough rows are free.
    """
    rewards = [0.0] * len(answers)
    groups = sorted({prompt.group for prompt in prompts})
    if len(groups) > cache.runner.num_free:
        free = cache.runner.num_free
        raise OverloadedError(f"num_slots: the call needs {len(groups)} rows, {free} are free")
    with ExitStack() as stack:
        rows: dict[int, Row] = {}
        for group in groups:
            rows[group] = cache.runner.open(group)
            stack.callback(cache.runner.close, rows[group])
        for prompt in prompts:
            row, head = rows[prompt.group], cache.model.heads[prompt.group]
            cache.runner.truncate(row, 0)
            last, _ = yield from cache.fill(row, prompt)
            first_logits = head.logits(last)  # [1, V]
            for i, answer in enumerate(answers):
                if not answer:
                    continue
                cache.runner.truncate(row, len(prompt.token_ids))
                rewards[i] += prompt.weight * scoring.sequence_logprob(
                    first_logits, _tensor(cache, answer[:1])
                )
                rest = yield from _rest_logprob(cache, row, head, answer)
                rewards[i] += prompt.weight * rest
    return rewards


def _rest_logprob(
    cache: SessionCache, row: Row, head: Head, answer: Sequence[int]
) -> Generator[int, None, float]:
    """Return the log-probability of an answer's tokens after the first."""
    total = 0.0
    for start in range(0, len(answer) - 1, cache.prefill_chunk):
        end = min(start + cache.prefill_chunk, len(answer) - 1)
        hidden = cache.runner.append(row, answer[start:end], all_positions=True)  # [T, D]
        following = _tensor(cache, answer[start + 1 : end + 1])  # [T]
        total += scoring.sequence_logprob(head.logits(hidden), following)
        yield end - start
    return total


def _tensor(cache: SessionCache, token_ids: Sequence[int]) -> torch.Tensor:
    return torch.tensor(token_ids, device=cache.model.device)
