"""Best-of-n: whole replies drawn from the base model, ranked by the reward of each."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evaluation.jobs import Guide, Written
from evaluation.models import LanguageModel
from evaluation.reader import Read
from generator_svc.decoding.strategies import STRATEGIES
from reward_svc.scoring import sequence_logprob

TEMPERATURE = STRATEGIES["best-of-n"].temperature
Logits = Callable[[Tensor], Tensor]
"""From the last hidden states `[N, D]` to logits `[N, V]`."""


@dataclass(frozen=True)
class Score:
    """The log-probabilities of some replies, and what it cost to compute each."""

    log_probs: list[float]
    seconds: list[float]


def seed_of(prompt_id: str, sample: int) -> int:
    """Return the seed of a prompt's n-th sample: consecutive ones, as the service draws."""
    digest = hashlib.sha256(prompt_id.encode()).digest()
    return int.from_bytes(digest[:7], "big") + sample


@torch.inference_mode()
def score(read: Read, logits_of: Logits, replies: Sequence[Sequence[int]]) -> Score:
    """Return what a model gives to each reply behind one prompt.

    All replies stand in one row behind the prompt, each at the positions after it and blind to the
    others. The prompt's seconds are charged to the first reply.

    Source: arXiv 2410.04070, equation 8.
    """
    started = time.process_time()
    prompt = list(read.token_ids)
    sizes = [len(reply) for reply in replies]
    ids = prompt + [token for reply in replies for token in reply]
    positions = list(range(len(prompt)))
    owners = [0] * len(prompt)  # 0: the prompt, i: reply i
    for number, size in enumerate(sizes, start=1):
        positions += range(len(prompt), len(prompt) + size)
        owners += [number] * size
    states = _states(read.model, ids, positions, owners)  # [T, D]
    log_probs, start = [], len(prompt)
    for reply, size in zip(replies, sizes, strict=True):
        places = [len(prompt) - 1, *range(start, start + size - 1)]
        log_probs.append(sequence_logprob(logits_of(states[places]), torch.tensor(reply)))
        start += size
    per_token = (time.process_time() - started) / len(ids)
    seconds = [size * per_token for size in sizes]
    seconds[0] += len(prompt) * per_token
    return Score(log_probs, seconds)


def _states(
    model: LanguageModel, ids: list[int], positions: list[int], owners: list[int]
) -> Tensor:
    """Return the last hidden states `[T, D]` of replies that see the prompt and themselves."""
    owner = torch.tensor(owners)
    sees = (owner == 0).unsqueeze(0) | (owner.unsqueeze(1) == owner.unsqueeze(0))  # [T, T]
    mask = sees.tril().unsqueeze(0).unsqueeze(0)  # [1, 1, T, T]
    states: Tensor = model.model.base_model(
        input_ids=torch.tensor([ids]),
        attention_mask=mask,
        position_ids=torch.tensor([positions]),
        use_cache=False,
    ).last_hidden_state[0]
    return states


def theta_scores(guide: Guide, replies: Sequence[Sequence[int]]) -> list[Score]:
    """Return the scores of the replies by each preference of a guide."""
    scores = []
    for row in guide.rows:
        vector = None if row.vector is None else row.vector.unsqueeze(0)  # [1, 2D]

        def logits_of(states: Tensor, vector: Tensor | None = vector) -> Tensor:
            return guide.variant.logits(states, vector)

        scores.append(score(row.read, logits_of, replies))
    return scores


def best_of(
    n: int, samples: Sequence[Written], guide: Guide, theta: Sequence[Score], reference: Score
) -> Written:
    """Return the best of the first `n` samples, charged for drawing and scoring all of them.

    KL is the bound log n - (n - 1) / n of best-of-n against the distribution that the samples are
    drawn from, per token of the reply; see Beirami et al., arXiv:2401.01879.

    Source: arXiv 2410.04070, section 4.3, Best-of-k.
    """
    assert guide.reference is not None
    parts = [(row.weight, own) for row, own in zip(guide.rows, theta, strict=True)]
    parts.append((-guide.weight, reference))
    rewards = [sum(weight * own.log_probs[i] for weight, own in parts) for i in range(n)]
    best = samples[max(range(n), key=rewards.__getitem__)]
    steps = sum(len(sample.token_ids) - 1 for sample in samples[:n])
    plain = samples[0].model_tokens - len(samples[0].token_ids) + 1  # the prompt, read once
    prompts = [row.read for row in guide.rows] + [guide.reference]
    drawing = samples[0].prompt_seconds + sum(s.seconds - s.prompt_seconds for s in samples[:n])
    return replace(
        best,
        kl_per_token=(math.log(n) - (n - 1) / n) / len(best.token_ids),
        seconds=drawing + sum(second for _, own in parts for second in own.seconds[:n]),
        model_tokens=plain + steps + sum(len(read.token_ids) + steps for read in prompts),
    )
