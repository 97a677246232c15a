"""What RPC handlers and the batcher tell each other: reward.proto's Score, without protobuf."""

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from reward_svc.prompts import Plan


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
    """A session to open; `token_ids` were already written."""

    session: int
    epoch: int
    plan: Plan
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Commit:
    """A token that was chosen at `step`."""

    session: int
    epoch: int
    step: int
    token_id: int


@dataclass(frozen=True)
class CandidateRow:
    """Candidates for `step`: at least one id, unless `refusal` says what is wrong with them."""

    session: int
    epoch: int
    step: int
    candidate_ids: NDArray[np.uint32]  # [K]
    refusal: str = ""


@dataclass(frozen=True)
class CandidateBatch:
    """Candidates that are answered together; `arrived` by `time.perf_counter`."""

    batch_id: int
    rows: tuple[CandidateRow, ...]
    arrived: float


@dataclass(frozen=True)
class Message:
    """One ScoreRequest; its parts are carried out in the order of the fields."""

    closes: tuple[int, ...] = ()
    openings: tuple[Opening, ...] = ()
    commits: tuple[Commit, ...] = ()
    candidates: CandidateBatch | None = None


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
class ScoredRow:
    """Rewards of one row's candidates."""

    session: int
    epoch: int
    step: int
    rewards: NDArray[np.float32]  # [K]


@dataclass
class Answer:
    """One ScoreResponse; `batch_id` is 0 and `scored` None where it answers no candidates."""

    batch_id: int = 0
    opened: list[Opened] = field(default_factory=list)
    scored: list[ScoredRow] | None = None
    faults: list[RowFault] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True)
class Load:
    """How busy this replica is."""

    num_free_slots: int
    num_sessions: int
