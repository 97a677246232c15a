"""Where messages of all streams arrive and become work of their sessions."""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from reward_svc.messages import (
    Answer,
    CandidateBatch,
    CandidateRow,
    Commit,
    Message,
    Opening,
    Reason,
    RowFault,
    ScoredRow,
)
from reward_svc.metrics import RewardMetrics
from reward_svc.stream import MAX_WAITING_WORK, AskedRow, PendingBatch, Session, Stream


class Intake:
    """The sessions of all streams and what waits for them.

    Handlers hand over at any time; only the batcher's loop takes, closes and answers.

    Attributes:
        arrival: Set when something was handed over.
        opened: Sessions that need rows.
        closed: Sessions whose rows are to be freed.
        working: Sessions with work, oldest first.
    """

    def __init__(self, metrics: RewardMetrics, *, max_waiting_sessions: int) -> None:
        self._metrics = metrics
        self._max_waiting_sessions = max_waiting_sessions
        self._inbox: deque[Callable[[], None]] = deque()
        self._is_draining = False
        self.streams: set[Stream] = set()
        self.arrival = asyncio.Event()
        self.opened: list[Session] = []
        self.closed: list[Session] = []
        self.working: dict[Session, None] = {}

    @property
    def is_empty(self) -> bool:
        return not self._inbox

    @property
    def has_changes(self) -> bool:
        """Whether sessions wait for rows, or rows to be freed."""
        return bool(self.opened or self.closed)

    @property
    def has_ready_work(self) -> bool:
        return any(session.is_ready and session.work for session in self.working)

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
        """Turn everything that arrived into work, or into errors where it can be none."""
        self.arrival.clear()
        while self._inbox:
            self._inbox.popleft()()

    def finish_streams(self) -> None:
        """Let streams finish that have nothing more to expect."""
        for stream in self.streams:
            is_over = stream.is_half_closed or (self._is_draining and not stream.sessions)
            if is_over and stream.num_unanswered == 0 and not stream.has_work:
                stream.finish()

    def refuse(self, stream: Stream, fault: RowFault) -> None:
        """Answer a row that is part of no batch with an error."""
        self._metrics.row_errors.labels(fault.reason.name.lower()).inc()
        stream.send(Answer(faults=[fault]))

    def resolve(self, stream: Stream, asked: AskedRow, result: ScoredRow | RowFault) -> None:
        """Say what became of a row of candidates; the last one of a batch sends the answer."""
        if isinstance(result, RowFault):
            self._metrics.row_errors.labels(result.reason.name.lower()).inc()
        asked.batch.resolve(asked.index, result)
        self._answer_if_done(stream, asked.batch)

    def _answer_if_done(self, stream: Stream, batch: PendingBatch) -> None:
        if batch.is_done:
            self._metrics.queue_s.observe(batch.timings.queue_s)
            stream.num_unanswered -= 1
            stream.send(batch.answer())

    def close(self, session: Session, reason: Reason, message: str) -> None:
        """Free a session's rows at the next turn; candidates that wait for it get this error."""
        session.is_closed = True
        session.stream.sessions.pop(session.opening.session, None)
        if not session.is_ready:
            session.stream.num_unanswered -= 1
        self.closed.append(session)
        self.working.pop(session, None)
        while session.work:
            work = session.work.popleft()
            if isinstance(work, AskedRow):
                fault = session.fault(work.row.step, reason, message)
                self.resolve(session.stream, work, fault)

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
        for commit in message.commits:
            found = self._find(stream, commit)
            if isinstance(found, RowFault):
                self.refuse(stream, found)
            else:
                self._add_work(found, commit)
        if message.candidates is not None:
            self._ask(stream, message.candidates)

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
        refusal = self._refusal()
        if refusal:
            self.refuse(stream, session.fault(0, Reason.NO_FREE_SLOTS, refusal))
            return
        stream.sessions[number] = session
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

    def _ask(self, stream: Stream, candidates: CandidateBatch) -> None:
        batch = PendingBatch(candidates)
        stream.num_unanswered += 1
        for i, row in enumerate(candidates.rows):
            asked = AskedRow(batch, i, row)
            found = self._find(stream, row)
            if isinstance(found, RowFault):
                self.resolve(stream, asked, found)
            else:
                self._add_work(found, asked)
        if not candidates.rows:
            self._answer_if_done(stream, batch)

    def _find(self, stream: Stream, row: Commit | CandidateRow) -> Session | RowFault:
        """Return the session of a row, or why the row cannot be its work."""
        session = stream.sessions.get(row.session)
        if session is None:
            reason, rule = Reason.UNKNOWN_SESSION, f"session: must be open, {row.session} is not"
        elif row.epoch != session.opening.epoch:
            reason = Reason.OUT_OF_STEP
            rule = f"epoch: must be {session.opening.epoch}, got {row.epoch}"
        elif len(session.work) >= MAX_WAITING_WORK:
            reason = Reason.INVALID
            rule = f"session: at most {MAX_WAITING_WORK} rows may wait, got one more"
        else:
            return session
        return RowFault(row.session, row.epoch, row.step, reason, rule)

    def _add_work(self, session: Session, work: Commit | AskedRow) -> None:
        session.work.append(work)
        self.working[session] = None
