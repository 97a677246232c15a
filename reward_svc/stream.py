"""One generator's stream: its sessions, what waits for them, and the answers on their way out."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from torch import Tensor

from reward_svc.messages import (
    Answer,
    CandidateBatch,
    CandidateRow,
    Commit,
    Opening,
    Reason,
    RowFault,
    ScoredRow,
    Timings,
)
from svc_common.errors import OverloadedError
from svc_common.lm.slots import Row

MAX_WAITING_MESSAGES = 64  # a generator needs two: its commits and its candidates
MAX_WAITING_WORK = 64  # commits and candidate rows of one session
MAX_UNREAD_ANSWERS = 4096


class PendingBatch:
    """Candidates of one message: answered when the last of their rows is scored or failed."""

    def __init__(self, candidates: CandidateBatch) -> None:
        self._arrived = candidates.arrived
        self.timings = Timings()
        self._batch_id = candidates.batch_id
        self._results: list[ScoredRow | RowFault | None] = [None] * len(candidates.rows)
        self._num_left = len(candidates.rows)

    @property
    def is_done(self) -> bool:
        return self._num_left == 0

    def resolve(self, index: int, result: ScoredRow | RowFault) -> None:
        """Say what became of a row."""
        assert self._results[index] is None, "row was answered twice"
        self._results[index] = result
        self._num_left -= 1

    def add_timings(self, taken: float, forward_s: float, select_s: float) -> None:
        """Note when the model thread took a row, and what it spent on it."""
        timings = self.timings
        timings.queue_s = max(timings.queue_s, taken - self._arrived)
        timings.forward_s = max(timings.forward_s, forward_s)
        timings.select_s = max(timings.select_s, select_s)

    def answer(self) -> Answer:
        """Return the answer of a batch that is done, rows in the order they were asked in."""
        scored = [result for result in self._results if isinstance(result, ScoredRow)]
        faults = [result for result in self._results if isinstance(result, RowFault)]
        return Answer(self._batch_id, scored=scored, faults=faults, timings=self.timings)


@dataclass(frozen=True)
class AskedRow:
    """A row of candidates that waits for its session."""

    batch: PendingBatch
    index: int
    row: CandidateRow


@dataclass(eq=False)
class Session:
    """One answer under its preferences: rows of the KV cache, one a prompt.

    `hidden` `[R, D]` is the last hidden state of each row, after `num_committed` answer tokens;
    `vectors` `[P, 2D]` belong to the terms that have one, and are None if no term has.
    `work` is carried out in its order, once the session is ready.
    """

    stream: "Stream"
    opening: Opening
    rows: list[Row] = field(default_factory=list)
    hidden: Tensor | None = None
    vectors: Tensor | None = None
    num_committed: int = 0
    num_cached_tokens: int = 0
    forward_s: float = 0.0
    is_closed: bool = False
    work: deque[Commit | AskedRow] = field(default_factory=deque)

    @property
    def is_ready(self) -> bool:
        return self.hidden is not None

    @property
    def num_tokens(self) -> int:
        """Tokens of the longest row."""
        return self.opening.plan.longest + self.num_committed

    def fault(self, step: int, reason: Reason, message: str) -> RowFault:
        return RowFault(self.opening.session, self.opening.epoch, step, reason, message)


class Stream:
    """What the batcher knows of a generator; `sessions` by number."""

    def __init__(self) -> None:
        self.sessions: dict[int, Session] = {}
        self.room = asyncio.Semaphore(MAX_WAITING_MESSAGES)
        self.num_unanswered = 0  # opens and batches
        self.is_half_closed = False
        self.is_ended = False
        self._is_finished = False
        self._answers: asyncio.Queue[Answer | None] = asyncio.Queue()

    @property
    def has_work(self) -> bool:
        """Whether a session has work left, a commit of which may be answered with an error."""
        return any(session.work for session in self.sessions.values())

    def send(self, answer: Answer) -> None:
        """Put an answer on its way."""
        if not self.is_ended:
            self._answers.put_nowait(answer)

    def finish(self) -> None:
        """Let `next_answer` return None after the answers that were sent."""
        if not self._is_finished:
            self._is_finished = True
            self._answers.put_nowait(None)

    async def next_answer(self) -> Answer | None:
        return await self._answers.get()

    def check_is_read(self) -> None:
        """Refuse a generator that does not read its answers.

        Raises:
            OverloadedError: too many answers wait to be read.
        """
        if self._answers.qsize() > MAX_UNREAD_ANSWERS:
            raise OverloadedError(
                f"answers: at most {MAX_UNREAD_ANSWERS} may wait to be read,"
                f" got {self._answers.qsize()}"
            )
