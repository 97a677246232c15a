"""Where messages of all streams arrive and become work of their sessions."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from reward_svc.messages import (
    Answer,
    CandidateRows,
    CommitRows,
    Message,
    Opening,
    Reason,
    RowFault,
)
from reward_svc.metrics import RewardMetrics
from reward_svc.session_trace import SessionTraces
from reward_svc.stream import Group, Session, Stream
from reward_svc.turn import CommitRules, WorkQueue
from reward_svc.work import CommitWork, PendingBatch, ScoreWork
from svc_common.array_fields import unpack

MAX_WAITING_WORK = 64  # commits and candidate rows of one session
MAX_TAKE_S = 0.01  # of a turn, for what arrived: other callers wait meanwhile


class Intake:
    """The sessions of all streams and what waits for them.

    Handlers hand over at any time; only the batcher's loop takes, closes and answers.

    Attributes:
        arrival: Set when something was handed over.
        opened: Sessions that need rows.
        closed: Sessions whose rows are to be freed.
        work: What waits for sessions.
    """

    def __init__(
        self,
        metrics: RewardMetrics,
        rules: CommitRules,
        *,
        max_waiting_sessions: int,
        traces: SessionTraces | None = None,
    ) -> None:
        self._metrics = metrics
        self._traces = traces
        self._max_waiting_sessions = max_waiting_sessions
        self._inbox: deque[Callable[[], None]] = deque()
        self._answered: list[PendingBatch] = []  # and not yet counted
        self._is_draining = False
        self.streams: set[Stream] = set()
        self.arrival = asyncio.Event()
        self.opened: list[Session] = []
        self.closed: list[Session] = []
        self.work = WorkQueue(rules)

    @property
    def is_empty(self) -> bool:
        return not self._inbox

    def open_stream(self) -> Stream:
        stream = Stream()
        self.streams.add(stream)
        return stream

    def end_stream(self, stream: Stream) -> None:
        """Close the stream's sessions and drop its work, at the next turn."""
        self._receive(partial(self._end, stream))

    def half_close(self, stream: Stream) -> None:
        """Let the stream finish when all that was asked is answered."""
        self._receive(partial(setattr, stream, "is_half_closed", True))

    def drain(self) -> None:
        """Open no more sessions, and let streams finish whose sessions are closed."""
        self._receive(partial(setattr, self, "_is_draining", True))

    async def submit(self, stream: Stream, message: Message) -> None:
        """Hand over a message; waits while many of this stream are not taken yet.

        Raises:
            OverloadedError: The stream's answers are not read.
        """
        stream.check_is_read()
        await stream.room.acquire()
        self._receive(partial(self._route, stream, message))

    def _receive(self, item: Callable[[], None]) -> None:
        self._inbox.append(item)
        self.arrival.set()

    def take(self) -> None:
        """Turn what arrived into work, or into errors where it can be none.

        What takes too long is left to the next turn.
        """
        self.arrival.clear()
        end = time.perf_counter() + MAX_TAKE_S
        while self._inbox and time.perf_counter() < end:
            self._inbox.popleft()()
        if self._inbox:
            self.arrival.set()

    def finish_streams(self) -> None:
        """Let streams finish that have nothing more to expect."""
        for stream in self.streams:
            is_over = stream.is_half_closed or (self._is_draining and not stream.sessions)
            if is_over and stream.num_unanswered == 0 and not self.work.has(stream):
                stream.finish()

    def refuse(self, stream: Stream, fault: RowFault) -> None:
        """Answer a row that is part of no batch with an error."""
        self._metrics.row_errors.labels(fault.reason.name.lower()).inc()
        stream.send(Answer(faults=[fault]))

    def fail(self, work: ScoreWork, row: int, fault: RowFault) -> None:
        """Say that a row of candidates failed."""
        self._metrics.row_errors.labels(fault.reason.name.lower()).inc()
        work.batch.fail(row, fault)
        self.answer_if_done(work)

    def answer_if_done(self, work: ScoreWork) -> None:
        """Send the answer of a batch if none of its rows is left."""
        batch = work.batch
        if batch.num_left == 0:
            work.stream.num_unanswered -= 1
            work.stream.send(batch.answer())
            self._answered.append(batch)

    def count_answers(self) -> None:
        """Count the answers that were sent: generators do not wait for that."""
        answered, self._answered = self._answered, []
        for batch in answered:
            self._metrics.queue_s.observe(batch.timings.queue_s)

    def close(self, session: Session, reason: Reason, message: str) -> None:
        """Free a session's rows at the next turn; candidates that wait for it get this error."""
        session.is_closed = True
        session.stream.remove(session)
        if self._traces is not None:
            self._traces.closed(session, reason)
        if not session.is_ready:
            session.stream.num_unanswered -= 1
        self.closed.append(session)
        for work, place in self.work.drop(session):
            self.fail(work, work.rows[place], session.fault(work.steps[place], reason, message))

    def _end(self, stream: Stream) -> None:
        stream.is_ended = True
        self.streams.discard(stream)
        for session in list(stream.sessions.values()):
            self.close(session, Reason.UNKNOWN_SESSION, "stream: has ended")

    def _route(self, stream: Stream, message: Message) -> None:
        stream.room.release()
        if stream.is_ended:
            return
        for number in message.closes:
            if number in stream.sessions:
                closed = f"session: must be open, {number} was closed"
                self.close(stream.sessions[number], Reason.UNKNOWN_SESSION, closed)
        for opening in message.openings:
            self._open(stream, opening)
        if message.commits is not None:
            self._commit(stream, message.commits)
        if message.candidates is not None:
            self._ask(stream, message.candidates)
        if message.tentative is not None:
            self._commit(stream, message.tentative)

    def _open(self, stream: Stream, opening: Opening) -> None:
        number, epoch = opening.session, opening.epoch
        current = stream.sessions.get(number)
        if current is not None and epoch <= current.opening.epoch:
            rule = f"epoch: must be above the open session's {current.opening.epoch}, got {epoch}"
            self.refuse(stream, RowFault(number, epoch, 0, Reason.OUT_OF_STEP, rule))
            return
        if current is not None:
            self.close(current, Reason.OUT_OF_STEP, f"epoch: session was opened again as {epoch}")
        session = Session(stream, opening)
        if self._traces is not None:
            self._traces.opened(session)
        refusal = self._refusal()
        if refusal:
            self.refuse(stream, session.fault(0, Reason.NO_FREE_SLOTS, refusal))
            if self._traces is not None:
                self._traces.closed(session, Reason.NO_FREE_SLOTS)
            return
        stream.add(session)
        stream.num_unanswered += 1
        self.opened.append(session)

    def _refusal(self) -> str:
        """Return why no session can be opened now, or nothing."""
        if self._is_draining:
            return "replica: is stopping"
        sessions = (session for stream in self.streams for session in stream.sessions.values())
        num_waiting = sum(not session.is_ready for session in sessions)
        if num_waiting >= self._max_waiting_sessions:
            return f"REWARD_MAX_WAITING_SESSIONS: {num_waiting} sessions wait for their prefill"
        return ""

    def _commit(self, stream: Stream, rows: CommitRows) -> None:
        group = self._group(stream, rows)
        if group is not None:
            self.work.add(CommitWork(stream, group, rows.steps, rows.token_ids))
            return
        kept: list[tuple[Session, int, int]] = []
        counts: dict[Session, int] = {}
        for number, epoch, step, token_id in zip(
            unpack(rows.sessions), unpack(rows.epochs), rows.steps, rows.token_ids, strict=True
        ):
            found = self._find(stream, (number, epoch, step), counts)
            if isinstance(found, RowFault):
                self.refuse(stream, found)
            else:
                kept.append((found, step, token_id))
        if kept:
            sessions, steps, token_ids = (list(column) for column in zip(*kept, strict=True))
            self.work.add(CommitWork(stream, Group(sessions), steps, token_ids))

    def _ask(self, stream: Stream, asked: CandidateRows) -> None:
        batch, steps = PendingBatch(asked), unpack(asked.steps)
        stream.num_unanswered += 1
        work = ScoreWork(stream, Group(()), steps, batch, list(range(len(steps))))
        if not steps:
            self.answer_if_done(work)
            return
        group = self._group(stream, asked)
        if group is not None:
            self.work.add(replace(work, group=group))
            return
        sessions: list[Session] = []
        rows: list[int] = []
        counts: dict[Session, int] = {}
        keys = zip(unpack(asked.sessions), unpack(asked.epochs), steps, strict=True)
        for row, key in enumerate(keys):
            found = self._find(stream, key, counts)
            if isinstance(found, RowFault):
                self.fail(work, row, found)
            else:
                sessions.append(found)
                rows.append(row)
        if rows:
            steps = [steps[row] for row in rows]
            self.work.add(ScoreWork(stream, Group(sessions), steps, batch, rows))

    def _group(self, stream: Stream, rows: CommitRows | CandidateRows) -> Group | None:
        """Return the sessions of rows that can all be work, or None if they must be looked at."""
        group = stream.group(rows.sessions, rows.epochs)
        if group is None or self.work.most + group.multiplicity > MAX_WAITING_WORK:
            return None
        return group

    def _find(
        self, stream: Stream, key: tuple[int, int, int], counts: dict[Session, int]
    ) -> Session | RowFault:
        """Return the session of a row (session, epoch, step), or why it cannot be its work.

        Args:
            counts: how much waits for the sessions of the message's rows before it; updated.
        """
        number, epoch, _ = key
        session = stream.sessions.get(number)
        if session is None:
            reason, rule = Reason.UNKNOWN_SESSION, f"session: must be open, {number} is not"
        elif epoch != session.opening.epoch:
            reason = Reason.OUT_OF_STEP
            rule = f"epoch: must be {session.opening.epoch}, got {epoch}"
        else:
            num_waiting = counts[session] if session in counts else self.work.count(session)
            counts[session] = num_waiting + 1
            if num_waiting < MAX_WAITING_WORK:
                return session
            reason = Reason.INVALID
            rule = f"session: at most {MAX_WAITING_WORK} rows may wait, got one more"
        return RowFault(*key, reason, rule)
