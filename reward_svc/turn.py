"""What waits for sessions, and which part of it can be done in one turn of the batcher."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import add, le

from reward_svc.messages import Reason, RowFault
from reward_svc.stream import Session, Stream
from reward_svc.work import CommitWork, ScoreWork


class Runs:
    """Tokens to run: session i runs `token_ids[i]` behind its first `starts[i]` tokens."""

    def __init__(
        self,
        sessions: Sequence[Session] = (),
        starts: Sequence[int] = (),
        token_ids: Iterable[list[int]] = (),
    ) -> None:
        self.sessions = list(sessions)
        self.starts = list(starts)
        self.token_ids = list(token_ids)
        self._places: dict[Session, int] | None = None  # made when it is first asked for

    def __bool__(self) -> bool:
        return bool(self.sessions)

    def end(self, session: Session) -> int | None:
        """Return how many tokens a session has afterwards, None if it runs none."""
        place = self._place(session)
        return None if place is None else self.starts[place] + len(self.token_ids[place])

    def add(self, session: Session, step: int, token_id: int) -> None:
        """Add a token of a session that runs none yet, or the one behind its last."""
        place = self._place(session)
        if place is not None:
            self.token_ids[place].append(token_id)
            return
        assert self._places is not None
        self._places[session] = len(self.sessions)
        self.sessions.append(session)
        self.starts.append(step)
        self.token_ids.append([token_id])

    def _place(self, session: Session) -> int | None:
        if self._places is None:
            self._places = {its: i for i, its in enumerate(self.sessions)}
        return self._places.get(session)

    def by_length(self) -> list["Runs"]:
        """Return the sessions that run the same number of tokens together."""
        lengths = {len(ids) for ids in self.token_ids}
        if len(lengths) <= 1:
            return [self] if lengths else []
        parts = {length: Runs() for length in sorted(lengths)}
        for session, start, ids in zip(self.sessions, self.starts, self.token_ids, strict=True):
            part = parts[len(ids)]
            part.sessions.append(session)
            part.starts.append(start)
            part.token_ids.append(ids)
        return list(parts.values())


@dataclass(frozen=True)
class CommitRules:
    """What a token must keep to be run."""

    vocabulary_size: int
    context_length: int

    def allow_all(self, work: CommitWork) -> bool:
        """Tell whether all rows can be run as they are, one for each session."""
        sessions, steps = work.group.sessions, work.steps
        if work.group.multiplicity != 1 or not work.group.is_ready:
            return False
        return (
            max(work.token_ids) < self.vocabulary_size
            and all(map(le, steps, [session.num_committed for session in sessions]))
            and max(map(add, steps, work.group.longest)) < self.context_length
        )

    def refusal(
        self, session: Session, num_tokens: int, step: int, token_id: int
    ) -> tuple[Reason, str] | None:
        """Return why a token cannot be run on a session that has `num_tokens`, None if it can."""
        if step > num_tokens:
            return Reason.OUT_OF_STEP, f"step: must be at most {num_tokens}, got {step}"
        if token_id >= self.vocabulary_size:
            rule = f"token_ids: must be 0..{self.vocabulary_size - 1}, got {token_id}"
            return Reason.INVALID, rule
        if session.longest + step >= self.context_length:
            rule = f"tokens: prompt and answer may have {self.context_length}, got one more"
            return Reason.INVALID, rule
        return None


@dataclass
class Turn:
    """What can be done at once: first answer `scores` and `faults`, then run `runs`."""

    scores: list[ScoreWork] = field(default_factory=list)
    faults: list[tuple[Stream, RowFault]] = field(default_factory=list)
    runs: Runs = field(default_factory=Runs)

    def __bool__(self) -> bool:
        return bool(self.scores or self.faults or self.runs)


class WorkQueue:
    """Work of all sessions, oldest first. That of one session is carried out in its order."""

    def __init__(self, rules: CommitRules) -> None:
        self._rules = rules
        self._waiting: deque[CommitWork | ScoreWork] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, work: CommitWork | ScoreWork) -> None:
        self._waiting.append(work)

    def has(self, stream: Stream) -> bool:
        """Tell whether the stream has work left: a commit may be answered with an error."""
        return any(work.stream is stream for work in self._waiting)

    @property
    def has_ready(self) -> bool:
        """Whether something can be done in the next turn."""
        return any(its.is_ready for work in self._waiting for its in work.group.sessions)

    @property
    def most(self) -> int:
        """A bound of what waits for one session."""
        return sum(work.group.multiplicity for work in self._waiting)

    def count(self, session: Session) -> int:
        """Return how much waits for a session."""
        return sum(work.group.sessions.count(session) for work in self._waiting)

    def drop(self, session: Session) -> list[tuple[ScoreWork, int]]:
        """Forget all work of a session; return where its candidates were: (work, place in it)."""
        dropped: list[tuple[ScoreWork, int]] = []
        left: deque[CommitWork | ScoreWork] = deque()
        for work in self._waiting:
            sessions = work.group.sessions
            if session not in sessions:
                left.append(work)
                continue
            if isinstance(work, ScoreWork):
                dropped += [(work, i) for i, its in enumerate(sessions) if its is session]
            others = [i for i, its in enumerate(sessions) if its is not session]
            if others:
                left.append(work.narrow(others))
        self._waiting = left
        return dropped

    def take(self) -> Turn:
        """Take what can be done now: of each session its first candidates, then its commits.

        A commit that goes on where an earlier one of the turn ends is run with it; candidates
        behind a commit wait for it, as does all that comes after them.
        """
        turn = Turn()
        blocked: set[Session] = set()
        items, self._waiting = self._waiting, deque()
        for work in items:
            if isinstance(work, ScoreWork):
                later = _take_candidates(turn, work, blocked)
            else:
                later = _take_commits(turn, work, blocked, self._rules)
            if later:
                sessions = work.group.sessions
                blocked.update([sessions[i] for i in later])
                is_whole = len(later) == len(sessions)
                self._waiting.append(work if is_whole else work.narrow(later))
        return turn


def _take_candidates(turn: Turn, work: ScoreWork, blocked: set[Session]) -> list[int]:
    """Put rows of candidates into the turn; return those that must wait."""
    if not blocked and not turn.runs and work.group.is_ready:
        turn.scores.append(work)
        return []
    now: list[int] = []
    later: list[int] = []
    for i, session in enumerate(work.group.sessions):
        must_wait = session in blocked or not session.is_ready
        (later if must_wait or turn.runs.end(session) is not None else now).append(i)
    if now:
        turn.scores.append(work.narrow(now))
    return later


def _take_commits(
    turn: Turn, work: CommitWork, blocked: set[Session], rules: CommitRules
) -> list[int]:
    """Put commits into the turn; return those that must wait."""
    if not blocked and not turn.runs and rules.allow_all(work):
        turn.runs = Runs(work.group.sessions, work.steps, [[token] for token in work.token_ids])
        return []
    later: list[int] = []
    waiting: set[Session] = set()
    rows = zip(work.group.sessions, work.steps, work.token_ids, strict=True)
    for i, (session, step, token_id) in enumerate(rows):
        end = turn.runs.end(session)
        must_wait = session in blocked or session in waiting or not session.is_ready
        # Taking a session back is another forward than the one that it takes back.
        if must_wait or (end is not None and step < end):
            later.append(i)
            waiting.add(session)
            continue
        num_tokens = session.num_committed if end is None else end
        refusal = rules.refusal(session, num_tokens, step, token_id)
        if refusal is None:
            turn.runs.add(session, step, token_id)
        else:
            turn.faults.append((work.stream, session.fault(step, *refusal)))
    return later
