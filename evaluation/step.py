"""One token more for every reply of a batch.

Candidates, rewards and choice are computed by the services' own functions, so that what is
measured is what is served.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evaluation.jobs import Job
from evaluation.reader import Read
from generator_svc.decoding.candidates import Candidates, top_candidates
from generator_svc.decoding.choice import RowParams, choose
from reward_svc.scoring import candidate_logprobs, weighted_sum
from svc_common.lm.slots import Row


@dataclass(eq=False)
class Live:
    """A reply in the making."""

    number: int
    job: Job
    rows: dict[Read, Row] = field(default_factory=dict)
    states: dict[Read, Tensor] = field(default_factory=dict)  # [D] each
    token_ids: list[int] = field(default_factory=list)
    kl: float = 0.0
    prompt_seconds: float = 0.0
    seconds: float = 0.0

    def params(self) -> RowParams:
        guide = self.job.guide
        is_released = guide is not None and guide.reference is None
        return RowParams(
            beta=guide.beta if guide else 0.0,
            temperature=self.job.temperature,
            top_p=1.0,
            seed=self.job.seed,
            step=len(self.token_ids),
            base_weight=guide.weight if guide and is_released else 0.0,
        )


@torch.inference_mode()
def choose_tokens(live: Sequence[Live]) -> list[int]:
    """Return the next token of each reply, and add up KL and seconds."""
    started = time.process_time()
    speaker = live[0].job.speaker.model
    logits = speaker.logits(_stack(live, [reply.job.speaker for reply in live]))  # [B, V]
    candidates = _candidates(logits, [reply.job.num_candidates for reply in live])
    rewards = _rewards(live, candidates)  # [B, K]
    choices = choose(candidates, rewards, [reply.params() for reply in live])
    seconds = (time.process_time() - started) / len(live)
    if live[0].job.temperature > 0:
        kls = [0.0] * len(live)
    elif live[0].job.guide is not None:
        kls = candidate_kl(choices.scores, candidates.logprobs).tolist()
    else:
        plain = live[0].job.plain.model
        plain_logits = plain.logits(_stack(live, [reply.job.plain for reply in live]))  # [B, V]
        kls = full_kl(logits, plain_logits).tolist()
    for reply, kl in zip(live, kls, strict=True):
        reply.kl += kl
        reply.seconds += seconds
    return choices.token_ids


def _stack(live: Sequence[Live], reads: Sequence[Read]) -> Tensor:
    return torch.stack([reply.states[read] for reply, read in zip(live, reads, strict=True)])


def _candidates(logits: Tensor, widths: Sequence[int]) -> Candidates:
    """Return each row's own number of candidates, -inf behind them."""
    best = top_candidates(logits, max(widths))  # [B, K]
    is_padding = torch.arange(max(widths)) >= torch.tensor(widths).unsqueeze(1)  # [B, K]
    return Candidates(best.token_ids, best.logprobs.masked_fill(is_padding, -torch.inf))


def _rewards(live: Sequence[Live], candidates: Candidates) -> Tensor:
    """Return the rewards of all candidates as the reward service sends them, `[B, K]`."""
    guides = [reply.job.guide for reply in live if reply.job.guide is not None]
    if not guides:
        return torch.zeros(candidates.logprobs.shape)
    assert len(guides) == len(live), "jobs of one call must all be guided or none"
    theta = [(i, place, row) for i, own in enumerate(guides) for place, row in enumerate(own.rows)]
    owners = [i for i, _, _ in theta]
    states = torch.stack([live[i].states[row.read] for i, _, row in theta])  # [R, D]
    vectors = [row.vector for _, _, row in theta if row.vector is not None]
    stacked = torch.stack(vectors) if vectors else None  # [R, 2D]
    variant = guides[0].variant
    logits = [variant.candidate_logits(states, stacked, candidates.token_ids[owners])]  # [R, K]
    weights = [row.weight for _, _, row in theta]
    places = [place for _, place, _ in theta]
    references = [own.reference for own in guides if own.reference is not None]
    if references:
        assert len(references) == len(live), "jobs of one call must share what they measure against"
        states = _stack(live, references)  # [B, D]
        logits.append(references[0].model.head.candidate_logits(states, candidates.token_ids))
        weights += [-own.weight for own in guides]
        owners += range(len(live))
        places += [len(own.rows) for own in guides]
    counts = (candidates.logprobs > -torch.inf).sum(1)  # [B]
    logprobs = candidate_logprobs(torch.cat(logits), counts[owners])  # [R, K]
    return weighted_sum(logprobs, torch.tensor(weights), torch.tensor(owners), torch.tensor(places))


def candidate_kl(scores: Tensor, logprobs: Tensor) -> Tensor:
    """Return KL(softmax of the scores || base), both over the K candidates, in nats.

    That the others are left out costs nothing here: greedy base decoding never takes them either,
    and beta 0 must cost 0.

    Args:
        scores: `[B, K]`, -inf where a row has fewer candidates.
        logprobs: `[B, K]`, ln p_base.
    """
    own, base = scores.log_softmax(-1), logprobs.log_softmax(-1)  # [B, K]
    terms = own.exp() * (own - base)
    return terms.masked_fill(scores == -torch.inf, 0.0).sum(-1).double()  # [B]


def full_kl(logits: Tensor, base_logits: Tensor) -> Tensor:
    """Return KL(softmax of `logits` || softmax of `base_logits`) in nats: `[B, V]` -> `[B]`."""
    own, base = logits.log_softmax(-1), base_logits.log_softmax(-1)  # [B, V]
    return (own.exp() * (own - base)).sum(-1).double()
