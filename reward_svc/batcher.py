"""Turns what all streams ask for into few forwards: the loop between RPC handlers and the model."""

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Sequence
from typing import ParamSpec, TypeVar

from reward_svc.intake import Intake
from reward_svc.jobs import Job, JobQueue, run_steps
from reward_svc.messages import Answer, CandidateRow, Commit, Load, Opened, Reason, ScoredRow
from reward_svc.metrics import RewardMetrics
from reward_svc.sessions import SessionCache
from reward_svc.stream import AskedRow, Session
from svc_common.errors import OverloadedError, ServiceError
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.prefill_pace import PrefillPace

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
MAX_TURNS_WITHOUT_JOB = 2
RETRY_AFTER_S = 0.5
SEE_LOG = "replica: failed, its log says why"


class Batcher:
    """Works in turns: take what arrived, close and open, score, commit, one slice of prefill.

    Only `run` changes sessions and uses the model thread, one call at a time, so nothing is locked.
    Commits begin their forward without waiting for candidates: the generator runs its own forward
    meanwhile.
    """

    def __init__(
        self,
        cache: SessionCache,
        thread: ModelThread,
        metrics: RewardMetrics,
        *,
        max_waiting_sessions: int,
    ) -> None:
        self._cache = cache
        self._thread = thread
        self._metrics = metrics
        self._max_waiting = max_waiting_sessions
        self._jobs = JobQueue()
        self._num_turns_without_job = 0
        self.intake = Intake(metrics, max_waiting_sessions=max_waiting_sessions)

    @property
    def load(self) -> Load:
        num_sessions = sum(len(stream.sessions) for stream in self.intake.streams)
        return Load(self._cache.runner.num_free, num_sessions)

    async def call(self, steps: Generator[int, None, R]) -> R:
        """Run `steps` on the model thread, between decode batches, and return what they return.

        Raises:
            OverloadedError: Too many calls wait already, or no row is free.
        """
        if len(self._jobs) >= self._max_waiting:
            raise OverloadedError(
                f"REWARD_MAX_WAITING_SESSIONS: {len(self._jobs)} requests wait for the model",
                retry_after_s=RETRY_AFTER_S,
            )
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._jobs.add(Job(steps, done=done))
        self.intake.arrival.set()
        return await done

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            if not (self._is_busy or self.intake.has_changes or self._jobs):
                await self.intake.arrival.wait()
            self.intake.take()
            await self._exchange()
            await self._score()
            await self._commit()
            await self._run_job()
            self.intake.finish_streams()
            self._metrics.sessions.set(self.load.num_sessions)
            self._metrics.free_slots.set(self.load.num_free_slots)

    @property
    def _is_busy(self) -> bool:
        return not self.intake.is_empty or self.intake.has_ready_work

    async def _exchange(self) -> None:
        """Free rows of closed sessions and take rows for opened ones."""
        closed, opened = self.intake.closed, self.intake.opened
        if not closed and not opened:
            return
        self.intake.closed, self.intake.opened = [], []
        refused = await self._attempt(self._cache.exchange, closed, opened)
        if isinstance(refused, Exception):
            self._fail(opened)
            return
        for session in refused:
            needed, free = len(session.opening.plan.prompts), self.load.num_free_slots
            rule = f"num_slots: the session needs {needed} rows, {free} are free"
            self._close(session, Reason.NO_FREE_SLOTS, rule)
        for session in opened:
            if not session.is_closed:
                self._jobs.add(Job(self._cache.prefill(session), session))

    async def _score(self) -> None:
        """Answer the candidates that stand first in the work of their sessions."""
        taken: list[tuple[Session, AskedRow]] = []
        for session in self._ready_sessions():
            while session.work and isinstance(asked := session.work[0], AskedRow):
                session.work.popleft()
                refusal = self._refusal(session, asked.row)
                if refusal is None:
                    taken.append((session, asked))
                else:
                    fault = session.fault(asked.row.step, *refusal)
                    self.intake.resolve(session.stream, asked, fault)
        if not taken:
            return
        started = time.perf_counter()
        asks = [(session, asked.row.candidate_ids) for session, asked in taken]
        rewards = await self._attempt(self._cache.score, asks)
        select_s = time.perf_counter() - started
        self._metrics.select_s.observe(select_s)
        for i, (session, asked) in enumerate(taken):
            row = asked.row
            if isinstance(rewards, Exception):
                fault = session.fault(row.step, Reason.INTERNAL, SEE_LOG)
                self.intake.resolve(session.stream, asked, fault)
                continue
            asked.batch.add_timings(started, session.forward_s, select_s)
            scored = ScoredRow(row.session, row.epoch, row.step, rewards[i])
            self.intake.resolve(session.stream, asked, scored)

    async def _commit(self) -> None:
        """Run the next committed token of every session that has one, in one forward."""
        sessions, token_ids = [], []
        for session in self._ready_sessions():
            commit = session.work[0]
            if not isinstance(commit, Commit):
                continue
            session.work.popleft()
            refusal = self._refusal(session, commit)
            if refusal is None:
                sessions.append(session)
                token_ids.append(commit.token_id)
            else:
                self.intake.refuse(session.stream, session.fault(commit.step, *refusal))
        if not sessions:
            return
        error = await self._attempt(self._cache.commit, sessions, token_ids)
        if error is not None:
            self._fail(sessions)
            return
        self._metrics.forward_s.observe(sessions[0].forward_s)
        self._metrics.batch_rows.observe(sum(len(session.rows) for session in sessions))

    def _ready_sessions(self) -> list[Session]:
        """Return the sessions that can work, and forget those that have no work."""
        for session in [session for session in self.intake.working if not session.work]:
            del self.intake.working[session]
        return [session for session in self.intake.working if session.is_ready]

    def _refusal(self, session: Session, row: Commit | CandidateRow) -> tuple[Reason, str] | None:
        """Return why a session cannot carry out its next work, or None if it can."""
        model = self._cache.model
        if row.step != session.num_committed:
            return Reason.OUT_OF_STEP, f"step: must be {session.num_committed}, got {row.step}"
        if isinstance(row, CandidateRow):
            return (Reason.INVALID, row.refusal) if row.refusal else None
        if row.token_id >= model.vocabulary_size:
            rule = f"token_ids: must be 0..{model.vocabulary_size - 1}, got {row.token_id}"
            return Reason.INVALID, rule
        if session.num_tokens >= model.context_length:
            rule = f"tokens: prompt and answer may have {model.context_length}, got one more"
            return Reason.INVALID, rule
        return None

    async def _run_job(self) -> None:
        """Run a slice of prefills and calls; in every second turn even if much else waits."""
        if not self._jobs:
            return
        self._num_turns_without_job += 1
        if self._is_busy and self._num_turns_without_job < MAX_TURNS_WITHOUT_JOB:
            return
        self._num_turns_without_job = 0
        pace = self._cache.pace
        sessions = [session for s in self.intake.streams for session in s.sessions.values()]
        pace.begin_step(delays_others=any(session.is_ready for session in sessions))
        while self._jobs and pace.left > 0:
            await self._run_slice(self._jobs.first(), pace)

    async def _run_slice(self, job: Job, pace: PrefillPace) -> None:
        """Run a job as far as the pace allows, and tell who waits for it if it is finished."""
        started = time.perf_counter()
        is_finished = await self._attempt(run_steps, job, pace)
        self._metrics.prefill_s.observe(time.perf_counter() - started)
        if is_finished is False:
            return
        self._jobs.remove(job)
        error = is_finished if isinstance(is_finished, Exception) else None
        if job.session is None:
            job.settle(error)
        elif error is not None:
            self._fail([job.session])
        elif not job.session.is_closed:
            self._announce(job.session)

    def _announce(self, session: Session) -> None:
        """Tell the generator that a session is ready."""
        session.stream.num_unanswered -= 1
        plan = session.opening.plan
        session.stream.send(
            Answer(
                opened=[
                    Opened(
                        session=session.opening.session,
                        epoch=session.opening.epoch,
                        num_prompt_tokens=sum(len(p.token_ids) for p in plan.prompts),
                        num_cached_tokens=session.num_cached_tokens,
                        max_answer_tokens=self._cache.model.context_length - plan.longest,
                    )
                ]
            )
        )

    async def _attempt(
        self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R | Exception:
        """Run `function` on the model thread and return its result, or the error it raised.

        An error concerns the rows of this call alone: the loop, which serves all, goes on.
        """
        try:
            return await self._thread.run(function, *args, **kwargs)
        except ServiceError as error:
            return error
        except Exception as error:
            logger.exception("work on the model failed")
            return error

    def _fail(self, sessions: Sequence[Session]) -> None:
        """Close sessions whose rows are in an unknown state."""
        for session in sessions:
            if not session.is_closed:
                self._close(session, Reason.INTERNAL, SEE_LOG)

    def _close(self, session: Session, reason: Reason, rule: str) -> None:
        self.intake.refuse(session.stream, session.fault(session.num_committed, reason, rule))
        self.intake.close(session, reason, rule)
