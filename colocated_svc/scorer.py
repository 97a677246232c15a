"""Rewards of the engine's steps from the model that runs beside the base model."""

import asyncio
from collections import deque
from functools import partial

from colocated_svc.placement import Placement, make_plan, place
from colocated_svc.rows import SharedRows
from colocated_svc.work import Work
from generator_svc.engine.scorer import (
    RewardSession,
    RewardTimes,
    ScoredRows,
    ScoreRows,
    SessionState,
)
from reward_svc.scorer import Scorer
from reward_svc.sessions import SessionCache
from reward_svc.stream import Group, Session, Stream
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.tokenizing import Tokenizing


class ColocatedScorer:
    """Implements `engine.scorer.RewardScorer`.

    A session gets all of its rows at once, in the order in which prompts are tokens: whoever holds
    some can go on, so all are written.

    Args:
        cache: of the reward model; the base model runs on its runner too.
        shared: that runner, as the base model's steps use it.
        thread: the model thread.
        num_rows: rows that sessions may take together.
        max_waiting: most whole answers that wait to be scored.
        tokenizing: turns long prompts into tokens beside the event loop.
    """

    def __init__(
        self,
        cache: SessionCache,
        shared: SharedRows,
        thread: ModelThread,
        *,
        num_rows: int,
        max_waiting: int,
        tokenizing: Tokenizing,
    ) -> None:
        self._model = cache.model
        self._tokenizing = tokenizing
        self._shared = shared
        self._thread = thread
        self._scorer = Scorer(cache.model)
        self._num_rows = num_rows
        self._placing: dict[RewardSession, asyncio.Task[Placement]] = {}  # that become tokens
        self._placements: dict[RewardSession, Placement] = {}
        self._owners: dict[Session, RewardSession] = {}  # of sessions that have rows
        self._waiting: deque[RewardSession] = deque()  # for rows
        self._stream = Stream()  # a session must have one; nothing is sent on it
        self._group = Group([])
        self.num_free = num_rows
        self.work = Work(cache, thread, max_waiting=max_waiting, on_ready=self._open_is_done)

    @property
    def is_available(self) -> bool:
        return True

    @property
    def times(self) -> RewardTimes:
        return RewardTimes()  # nothing is waited for

    @property
    def model_version(self) -> str:
        return self._model.version

    def open(self, session: RewardSession) -> None:
        """Begin to read the session's prompts, once they are tokens and its rows are free."""
        session.state = SessionState.OPENING
        placing = asyncio.ensure_future(self._placement(session))
        self._placing[session] = placing
        placing.add_done_callback(partial(self._placed, session))

    async def _placement(self, session: RewardSession) -> Placement:
        plan = await make_plan(session.context, self._model, self._tokenizing)
        return place(session, plan, self._model, self._stream, self._num_rows)

    def _placed(self, session: RewardSession, placing: "asyncio.Task[Placement]") -> None:
        """Have a session wait for rows, unless it was closed meanwhile."""
        if self._placing.pop(session, None) is None or placing.cancelled():
            return
        error = placing.exception()
        if isinstance(error, Exception):
            session.state, session.error = SessionState.FAILED, error
            session.on_change()
            return
        self._placements[session] = placing.result()
        self._waiting.append(session)
        self._give_rows()

    def commit(self, sessions: list[RewardSession]) -> None:
        """Have the last tokens run in the forward that the engine begins next."""
        for session in sessions:
            step = session.num_committed
            if step < len(session.token_ids):
                self._shared.commit(self._placements[session].session, session.token_ids[step])
                session.num_committed += 1

    def score(self, rows: ScoreRows) -> "asyncio.Future[ScoredRows]":
        """Return rewards; the forward that they need has run."""
        if self._model.device.type != "cpu":  # on its stream
            return self._thread.start(self._score, rows)
        # Here, rather than behind a prompt on that thread.
        scored: asyncio.Future[ScoredRows] = asyncio.get_running_loop().create_future()
        scored.set_result(self._score(rows))
        return scored

    def _score(self, rows: ScoreRows) -> ScoredRows:
        placements = [self._placements[session] for session in rows.sessions]
        for placement in placements:
            placement.join()
        sessions = [placement.session for placement in placements]
        if sessions != self._group.sessions:
            self._group = Group(sessions)
        steps = [session.num_committed for session in sessions]
        scored = self._scorer.score_block(self._group, steps, rows.counts, rows.token_ids)
        by_preference = {i: its[:, : rows.counts[i]] for i, its in scored.by_preference.items()}
        return ScoredRows(scored.rewards, [True] * len(sessions), by_preference)

    def close(self, session: RewardSession) -> None:
        """End a session, whatever its state; its rows may be given again at once."""
        session.state = SessionState.CLOSED
        placing = self._placing.pop(session, None)
        if placing is not None:
            placing.cancel()
            return
        placement = self._placements.pop(session, None)
        if placement is None:
            return
        if self._owners.pop(placement.session, None) is None:
            self._waiting.remove(session)
        else:
            placement.part()
            self.num_free += placement.num_rows
            self.work.close(placement.session)
        self._give_rows()

    def _give_rows(self) -> None:
        """Open sessions as long as there are rows for the next; none overtakes another."""
        while self._waiting:
            placement = self._placements[self._waiting[0]]
            if placement.num_rows > self.num_free:
                return
            self.num_free -= placement.num_rows
            self._owners[placement.session] = self._waiting.popleft()
            self.work.open(placement.session)

    def _open_is_done(self, session: Session) -> None:
        owner = self._owners[session]
        owner.num_committed = session.num_committed
        owner.model_version = self._model.version
        plan = self._placements[owner].plan
        owner.max_answer_tokens = self._model.context_length - plan.longest
        owner.state = SessionState.OPEN
        owner.on_change()
