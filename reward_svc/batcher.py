"""Turns what all streams ask for into few forwards: the loop between RPC handlers and the model."""

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Sequence
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from reward_svc import states
from reward_svc.intake import Intake
from reward_svc.jobs import Job, JobQueue, run_steps
from reward_svc.messages import Answer, ByPreference, Load, Opened, Reason
from reward_svc.metrics import RewardMetrics
from reward_svc.session_trace import SessionTraces
from reward_svc.sessions import SessionCache
from reward_svc.stream import Session
from reward_svc.turn import CommitRules, Runs
from reward_svc.work import ScoreWork
from svc_common.errors import OverloadedError, ServiceError
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.prefill_pace import PrefillPace

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
MAX_TURNS_WITHOUT_JOB = 2
MAX_SCORED_HERE = 1 << 12  # candidates; more would hold up the event loop for longer than a wake-up
RETRY_AFTER_S = 0.5
SEE_LOG = "replica: failed, its log says why"


class Batcher:
    """Works in turns: take what arrived, score, close and open, commit, one slice of prefill.

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
        traces: SessionTraces | None = None,
    ) -> None:
        self._traces = traces
        self._cache = cache
        self._thread = thread
        self._metrics = metrics
        self._max_waiting = max_waiting_sessions
        self._jobs = JobQueue()
        self._num_turns_without_job = 0
        self._scored: list[tuple[ScoreWork, float]] = []  # with seconds; not yet counted
        rules = CommitRules(cache.model.vocabulary_size, cache.model.context_length)
        self.intake = Intake(
            metrics, rules, max_waiting_sessions=max_waiting_sessions, traces=traces
        )

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
        self._note_load()
        while True:
            self.intake.take()
            if not self.intake.is_empty:
                await asyncio.sleep(0)  # it would not let anyone in between, so much arrived
            turn = self.intake.work.take()
            for stream, fault in turn.faults:
                self.intake.refuse(stream, fault)
            for work in turn.scores:
                await self._score(work)
            if turn.scores:
                await asyncio.sleep(0)  # the answers leave before a forward takes the processor
            self._count()
            has_changed = await self._exchange()
            await self._commit(turn.runs)
            has_worked = await self._run_job()
            self.intake.finish_streams()
            if not (turn or has_changed or has_worked):
                await self.intake.arrival.wait()

    def _note_load(self) -> None:
        self._metrics.sessions.set(self.load.num_sessions)
        self._metrics.free_slots.set(self.load.num_free_slots)

    async def _exchange(self) -> bool:
        """Free rows of closed sessions and take rows for opened ones, if there are any."""
        closed, opened = self.intake.closed, self.intake.opened
        if not closed and not opened:
            return False
        self.intake.closed, self.intake.opened = [], []
        refused = await self._attempt(self._cache.exchange, closed, opened)
        if isinstance(refused, Exception):
            self._fail(opened)
            return True
        for session in refused:
            needed, free = len(session.opening.plan.prompts), self.load.num_free_slots
            rule = f"num_slots: the session needs {needed} rows, {free} are free"
            self._close(session, Reason.NO_FREE_SLOTS, rule)
        for session in opened:
            if not session.is_closed:
                self._jobs.add(Job(self._cache.prefill(session), session))
        self._note_load()
        return True

    async def _score(self, work: ScoreWork) -> None:
        """Answer rows of candidates."""
        batch, taken = work.batch, time.perf_counter()
        work = self._scorable(work)
        if not work.rows:
            return
        counts, ids = batch.asked.of_rows(work.rows)
        scored = await self._rewards(work, counts, ids)
        if isinstance(scored, Exception):
            for row, session, step in zip(work.rows, work.group.sessions, work.steps, strict=True):
                self.intake.fail(work, row, session.fault(step, Reason.INTERNAL, SEE_LOG))
            return
        select_s = time.perf_counter() - taken
        forward_s = max([session.forward_s for session in work.group.sessions])
        batch.add_timings(taken, forward_s, select_s)
        batch.score(work.rows, *scored)
        self.intake.answer_if_done(work)
        self._scored.append((work, select_s))

    def _count(self) -> None:
        """Count what was scored and answered in this turn."""
        self.intake.count_answers()
        scored, self._scored = self._scored, []
        for work, select_s in scored:
            self._metrics.select_s.observe(select_s)
            if self._traces is not None:
                self._traces.scored(work.group.sessions, select_s)

    async def _rewards(
        self, work: ScoreWork, counts: list[int], ids: NDArray[np.uint32]
    ) -> tuple[NDArray[np.float32], ByPreference] | Exception:
        """Return the rewards of rows and what explains them, or the error that was raised.

        A few candidates are scored here, between two calls on the model thread: to wake it and
        to be woken by it costs as much as to score them.
        """
        asks = (work.group, work.steps, counts, ids)
        if self._cache.model.device.type != "cpu" or len(ids) > MAX_SCORED_HERE:
            return await self._attempt(self._cache.score, *asks)
        try:
            return self._cache.score(*asks)
        except Exception as error:
            logger.exception("scoring failed")
            return error

    def _scorable(self, work: ScoreWork) -> ScoreWork:
        """Return the rows that can be scored; the others are answered."""
        sessions, refusals = work.group.sessions, work.batch.asked.refusals
        if not refusals and work.steps == [session.num_committed for session in sessions]:
            return work
        members = []
        for i, (session, step, row) in enumerate(zip(sessions, work.steps, work.rows, strict=True)):
            first, last = states.first_step(session), session.num_committed
            if not first <= step <= last:
                allowed = str(last) if first == last else f"{first}..{last}"
                rule = f"step: must be {allowed}, got {step}"
                self.intake.fail(work, row, session.fault(step, Reason.OUT_OF_STEP, rule))
            elif row in refusals:
                self.intake.fail(work, row, session.fault(step, Reason.INVALID, refusals[row]))
            else:
                members.append(i)
        return work if len(members) == len(sessions) else work.narrow(members)

    async def _commit(self, runs: Runs) -> None:
        """Run committed tokens: in one forward, if all sessions have the same number of them."""
        for part in runs.by_length():
            sessions = part.sessions
            error = await self._attempt(self._cache.commit, sessions, part.starts, part.token_ids)
            if error is not None:
                self._fail(sessions)
                continue
            if self._traces is not None:
                self._traces.committed(sessions)
            self._metrics.forward_s.observe(sessions[0].forward_s)
            self._metrics.batch_rows.observe(sum([len(session.rows) for session in sessions]))

    async def _run_job(self) -> bool:
        """Run a slice of prefills and calls; in every second turn even if much else waits.

        Returns:
            Whether there was one.
        """
        if not self._jobs:
            return False
        self._num_turns_without_job += 1
        is_busy = not self.intake.is_empty or self.intake.work.has_ready
        if is_busy and self._num_turns_without_job < MAX_TURNS_WITHOUT_JOB:
            return True
        self._num_turns_without_job = 0
        pace = self._cache.pace
        sessions = [session for s in self.intake.streams for session in s.sessions.values()]
        pace.begin_step(delays_others=any(session.is_ready for session in sessions))
        while self._jobs and pace.left > 0:
            await self._run_slice(self._jobs.first(), pace)
        return True

    async def _run_slice(self, job: Job, pace: PrefillPace) -> None:
        """Run a job as far as the pace allows, and tell who waits for it if it is finished."""
        started = time.perf_counter()
        is_finished = await self._attempt(run_steps, job, pace)
        seconds = time.perf_counter() - started
        self._metrics.prefill_s.observe(seconds)
        if self._traces is not None and job.session is not None:
            self._traces.prefilled(job.session, started, seconds)
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
