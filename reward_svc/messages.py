"""What RPC handlers and the batcher tell each other: reward.proto's Score, without protobuf."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from reward_svc.prompts import Plan
from svc_common.array_fields import pack
from svc_common.trace_context import TraceContext

UINT32, FLOAT32 = np.dtype("<u4"), np.dtype("<f4")

ByPreference: TypeAlias = dict[int, NDArray[np.float32]]
"""By row: what each preference alone gives to its candidates, `[P, K]`."""


class Reason(Enum):
    """Why a row was not scored or a session not opened; values are those of RowErrorReason."""

    UNKNOWN_SESSION = 1
    OUT_OF_STEP = 2
    NO_FREE_SLOTS = 3
    INVALID = 4
    MODEL_MISMATCH = 5
    INTERNAL = 6


@dataclass(frozen=True)
class RowFault:
    """A row that failed, or a session that was not opened (step 0)."""

    session: int
    epoch: int
    step: int
    reason: Reason
    message: str


@dataclass(frozen=True)
class Opening:
    """A session to open; `token_ids` were already written.

    If it `is_explained`, its rows also say what each preference alone gives.
    """

    session: int
    epoch: int
    plan: Plan
    token_ids: tuple[int, ...]
    is_explained: bool = False
    trace: TraceContext | None = None  # that the session is part of


@dataclass(frozen=True)
class CommitRows:
    """Tokens that were chosen; the first two are array fields, as rows are found by them."""

    sessions: bytes
    epochs: bytes
    steps: list[int]
    token_ids: list[int]

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int, int, int]]) -> "CommitRows":
        """Return rows of (session, epoch, step, token id)."""
        sessions, epochs, steps, token_ids = columns(rows, 4)
        return cls(pack(sessions), pack(epochs), steps, token_ids)


@dataclass(frozen=True)
class CandidateRows:
    """Candidates that are answered together; `arrived` by `time.perf_counter`.

    Row i has `counts[i]` of the ids, at least one unless `refusals` says what is wrong with it.
    The bytes are array fields: rows are found by them, and the answer repeats them.
    """

    batch_id: int
    sessions: bytes
    epochs: bytes
    steps: bytes
    num_candidates: bytes
    counts: list[int]
    candidate_ids: NDArray[np.uint32]
    arrived: float
    refusals: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, batch_id: int, rows: Iterable[tuple[int, int, int, Sequence[int]]], arrived: float
    ) -> "CandidateRows":
        """Return rows of (session, epoch, step, candidate ids)."""
        rows = list(rows)
        sessions, epochs, steps = columns((row[:3] for row in rows), 3)
        counts = [len(ids) for *_, ids in rows]
        ids = np.array([token for *_, ids in rows for token in ids], UINT32)
        keys = (pack(sessions), pack(epochs), pack(steps), pack(counts))
        return cls(batch_id, *keys, counts, ids, arrived)

    def of_rows(self, rows: Sequence[int]) -> tuple[list[int], NDArray[np.uint32]]:
        """Return the counts and candidates of some rows, which ascend."""
        if len(rows) == len(self.counts):
            return self.counts, self.candidate_ids
        ends = np.cumsum(self.counts)
        parts = [self.candidate_ids[ends[row] - self.counts[row] : ends[row]] for row in rows]
        return [self.counts[row] for row in rows], np.concatenate(parts)


def columns(rows: Iterable[tuple[int, ...]], count: int) -> list[list[int]]:
    """Return the `count` columns of rows, of which there may be none."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(count)]


@dataclass(frozen=True)
class Message:
    """One ScoreRequest; its parts are carried out in the order of the fields."""

    closes: tuple[int, ...] = ()
    openings: tuple[Opening, ...] = ()
    commits: CommitRows | None = None
    candidates: CandidateRows | None = None
    tentative: CommitRows | None = None


@dataclass(frozen=True)
class Opened:
    """A session is ready."""

    session: int
    epoch: int
    num_prompt_tokens: int
    num_cached_tokens: int
    max_answer_tokens: int


@dataclass
class Timings:
    """Seconds that a batch took on this replica."""

    queue_s: float = 0.0
    forward_s: float = 0.0
    select_s: float = 0.0


@dataclass(frozen=True)
class RewardRows:
    """Rewards, row after row; array fields, ready to be sent."""

    sessions: bytes
    epochs: bytes
    steps: bytes
    num_candidates: bytes
    rewards: bytes
    num_preferences: bytes = b""
    preference_rewards: bytes = b""


@dataclass
class Answer:
    """One ScoreResponse; `batch_id` is 0 and `scored` None where it answers no candidates."""

    batch_id: int = 0
    opened: list[Opened] = field(default_factory=list)
    scored: RewardRows | None = None
    faults: list[RowFault] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True)
class Load:
    """How busy this replica is."""

    num_free_slots: int
    num_sessions: int
