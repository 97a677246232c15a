"""Rewards of candidates, from the hidden states that the last forward left; runs no forward."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reward_svc import scoring
from reward_svc.messages import ByPreference
from reward_svc.model import PersRM
from reward_svc.preference_head import apply_vectors
from reward_svc.prompts import REFERENCE, THETA
from reward_svc.states import gather
from reward_svc.stream import Group, Session

MAX_SCORED_PLACES = 1 << 12  # candidates whose rows of lm_head are gathered at once


@dataclass(frozen=True)
class Shape:
    """How a session's terms come from its R rows; sessions of one shape are scored as one array.

    The first `num_theta` terms are theta's, all of them with a vector or none; `rows` says which
    row each of the S terms reads.
    """

    num_rows: int
    rows: tuple[int, ...]
    num_theta: int
    has_vectors: bool

    @classmethod
    def of(cls, session: Session) -> "Shape":
        """Return the shape of a session."""
        plan = session.opening.plan
        groups = plan.groups
        num_theta = groups.count(THETA)
        assert set(groups[num_theta:]) <= {REFERENCE}, "theta's terms come first"
        num_vectors = sum(term.preference is not None for term in plan.terms)
        assert num_vectors in (0, num_theta), "a vector for all of theta's terms or none"
        rows = tuple(term.row for term in plan.terms)
        return cls(len(plan.prompts), rows, num_theta, num_vectors > 0)

    @property
    def is_plain(self) -> bool:
        """Whether each row has its term."""
        return self.rows == tuple(range(self.num_rows))


@dataclass(frozen=True)
class Part:
    """Sessions of one shape: those at `members` of a group.

    `weights` `[B, S]`; `vectors` `[B, P, 2D]` of theta's terms, if they have any.
    """

    shape: Shape
    members: list[int]
    sessions: list[Session]
    weights: Tensor
    vectors: Tensor | None

    @cached_property
    def explained(self) -> list[int]:
        """Which of its sessions want to know what each preference alone gives."""
        return [i for i, one in enumerate(self.sessions) if one.opening.is_explained]

    def pieces(self, size: int) -> list["Part"]:
        """Return parts of at most `size` sessions."""
        if len(self.members) <= size:
            return [self]
        return [
            Part(
                self.shape,
                self.members[start : start + size],
                self.sessions[start : start + size],
                self.weights[start : start + size],
                None if self.vectors is None else self.vectors[start : start + size],
            )
            for start in range(0, len(self.members), size)
        ]


@dataclass(frozen=True)
class Scored:
    """Rewards `[B, K]`, 0 behind a row's own candidates.

    `by_preference` holds, by row, what each preference alone gives, `[P, K]`, of those sessions
    that want to know it.
    """

    rewards: Tensor
    by_preference: dict[int, Tensor] = field(default_factory=dict)


def split(sessions: Sequence[Session]) -> list[Part]:
    """Return sessions that are ready by their shapes."""
    shapes: dict[Shape, list[int]] = {}
    for i, session in enumerate(sessions):
        shapes.setdefault(Shape.of(session), []).append(i)
    parts = []
    for shape, members in shapes.items():
        its = [sessions[i] for i in members]
        weights = torch.tensor([session.opening.plan.weights for session in its])  # [B, S]
        vectors = [session.vectors for session in its if session.vectors is not None]
        stacked = torch.stack(vectors) if shape.has_vectors else None  # [B, P, 2D]
        parts.append(Part(shape, members, its, weights, stacked))
    return parts


def _trimmed(scored: Scored, counts: list[int]) -> ByPreference:
    return {i: its[:, : counts[i]].numpy() for i, its in scored.by_preference.items()}


class Scorer:
    """Scores candidates by the heads of a reward model."""

    def __init__(self, model: PersRM) -> None:
        self._heads = model.heads
        self._device = model.device
        # Memory that is new in every step costs more than what is written into it.
        self._kept_rows = torch.empty(0)
        self._num_kept_rows = 0
        self._shares_rows = model.has_reference and model.heads[0].has_weight_of(model.heads[1])

    def score(
        self, group: Group, steps: list[int], counts: list[int], ids: NDArray[np.uint32]
    ) -> tuple[NDArray[np.float32], ByPreference]:
        """Return the rewards of all candidates, row after row, and what explains some of the rows.

        Args:
            group: one session a row.
            steps: of each row; its state must be kept.
            counts: candidates of each row, 1 at least.
            ids: candidates, row after row.
        """
        num_rows, longest = len(counts), max(counts)
        if len(ids) == num_rows * longest:
            asked = torch.from_numpy(ids.astype(np.int64)).view(num_rows, longest)  # [B, K]
            scored = self.score_block(group, steps, counts, asked)
            return scored.rewards.numpy().reshape(-1), _trimmed(scored, counts)
        is_asked = np.arange(longest) < np.array(counts)[:, None]  # [B, K]
        padded = np.zeros(is_asked.shape, np.int64)
        padded[is_asked] = ids
        scored = self.score_block(group, steps, counts, torch.from_numpy(padded))
        return scored.rewards.numpy()[is_asked], _trimmed(scored, counts)

    @torch.inference_mode()
    def score_block(
        self, group: Group, steps: list[int], counts: list[int], asked: Tensor
    ) -> Scored:
        """Do what `score` does for ids `[B, K]` int64."""
        if group.parts is None:
            group.parts = split(group.sessions)
        is_ragged = min(counts) < asked.shape[1]
        return self._score_all(
            group.parts, steps, asked, torch.tensor(counts) if is_ragged else None
        )

    def _score_all(
        self, parts: Sequence[Part], steps: list[int], asked: Tensor, counts: Tensor | None
    ) -> Scored:
        """Return what candidates `[B, K]` get, of which a row has `counts` `[B]`."""
        num_rows, longest = asked.shape
        size = max(1, MAX_SCORED_PLACES // longest)
        if len(parts) == 1 and num_rows <= size:  # as usual
            return self._score(parts[0], steps, asked, counts)
        all_scored = Scored(torch.empty(num_rows, longest))
        for part in [piece for whole in parts for piece in whole.pieces(size)]:
            rows = torch.tensor(part.members)
            its_steps = [steps[i] for i in part.members]
            its_counts = None if counts is None else counts[rows]
            scored = self._score(part, its_steps, asked[rows], its_counts)
            all_scored.rewards[rows] = scored.rewards
            for i, its in scored.by_preference.items():
                all_scored.by_preference[part.members[i]] = its
        return all_scored

    def _score(self, part: Part, steps: list[int], asked: Tensor, counts: Tensor | None) -> Scored:
        logits = self._logits(part, gather(part.sessions, steps), asked)  # [B, S, K]
        num_candidates = None if counts is None else counts.unsqueeze(1)  # [B, 1]
        logprobs = scoring.candidate_logprobs(logits, num_candidates)  # [B, S, K]
        rewards = scoring.sum_terms(logprobs, part.weights)  # [B, K]
        if not part.explained:
            return Scored(rewards)
        explained = logprobs[part.explained]  # [E, S, K]
        by_preference = scoring.preference_rewards(explained, part.shape.num_theta)  # [E, P, K]
        return Scored(rewards, dict(zip(part.explained, by_preference, strict=True)))

    def _logits(self, part: Part, hidden: Tensor, ids: Tensor) -> Tensor:
        """Return each term's logits on the CPU, `[B, S, K]` float32, from states `[B, R, D]`.

        K numbers a term are so few that every further step is faster there.
        """
        shape = part.shape
        if not shape.is_plain:
            rows = torch.tensor(shape.rows, device=hidden.device)
            hidden = hidden.index_select(1, rows)  # [B, S, D]
        ids = ids.to(self._device)
        theta = hidden[:, : shape.num_theta]  # [B, P, D]
        if part.vectors is not None:
            theta = apply_vectors(theta, part.vectors)
        rows = self._rows(THETA, ids)  # [B, K, D]
        logits = self._heads[THETA].row_logits(theta, ids, rows)  # [B, P, K]
        if shape.num_theta < len(shape.rows):
            head = self._heads[REFERENCE]
            if not self._shares_rows:
                rows = self._rows(REFERENCE, ids)
            others = head.row_logits(hidden[:, shape.num_theta :], ids, rows)
            logits = torch.cat([logits, others], dim=1)  # [B, S, K]
        return logits.cpu()

    def _rows(self, group: int, ids: Tensor) -> Tensor:
        """Return the head's rows of candidates, `[B, K, D]`, until it is called again."""
        head, count = self._heads[group], ids.numel()
        if count > self._num_kept_rows:
            self._kept_rows = head.new_rows(count)
            self._num_kept_rows = count
        return head.candidate_rows(ids, self._kept_rows[:count])
