"""The reward model's work between the steps: rows given and taken back, prompts, whole answers."""

import asyncio
from collections.abc import Callable, Generator
from typing import TypeVar

from reward_svc.jobs import Job, JobQueue, run_steps
from reward_svc.sessions import SessionCache
from reward_svc.stream import Session
from svc_common.errors import OverloadedError
from svc_common.lm.model_thread import ModelThread

R = TypeVar("R")


class Work:
    """Takes turns with the engine on the model thread: a slice of work, a step, a slice of work.

    Args:
        cache: of the reward model's rows.
        thread: on which the engine's steps run too.
        max_waiting: most calls that wait.
        on_ready: told of each session whose prompts were read.
    """

    def __init__(
        self,
        cache: SessionCache,
        thread: ModelThread,
        *,
        max_waiting: int,
        on_ready: Callable[[Session], None],
    ) -> None:
        self._cache = cache
        self._thread = thread
        self._max_waiting = max_waiting
        self._on_ready = on_ready
        self._jobs = JobQueue()
        self._num_calls = 0
        self._opened: list[Session] = []
        self._ready: set[Session] = set()  # of answers that are being written
        self._closed: list[Session] = []
        self._arrival = asyncio.Event()

    def open(self, session: Session) -> None:
        """Give a session rows, which must be there for it, and read its prompts."""
        self._opened.append(session)
        self._arrival.set()

    def close(self, session: Session) -> None:
        """Take a session's rows back, before any that were asked for later are given."""
        session.is_closed = True
        self._ready.discard(session)
        self._closed.append(session)
        self._arrival.set()

    async def call(self, steps: Generator[int, None, R]) -> R:
        """Run `steps` on the model thread, one call after the other, and return what they return.

        Raises:
            OverloadedError: Too many calls wait already.
        """
        if self._num_calls >= self._max_waiting:
            raise OverloadedError(
                f"queue: at most {self._max_waiting} answers may wait to be scored as a whole"
            )
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._jobs.add(Job(steps, done=done))
        self._num_calls += 1
        self._arrival.set()
        try:
            return await done
        finally:
            self._num_calls -= 1

    async def run(self) -> None:
        """Work until cancelled. An error of the model ends this, as it ends the engine."""
        while True:
            if not (self._jobs or self._opened or self._closed):
                self._arrival.clear()
                await self._arrival.wait()
            await self._exchange()
            if self._jobs:
                await self._run_job(self._jobs.first())

    async def _exchange(self) -> None:
        closed, opened = self._closed, self._opened
        if not closed and not opened:
            return
        self._closed, self._opened = [], []
        refused = await self._thread.run(self._cache.exchange, closed, opened)
        assert not refused, "rows were not reserved"
        for session in opened:
            if not session.is_closed:
                self._jobs.add(Job(self._cache.prefill(session), session))

    async def _run_job(self, job: Job) -> None:
        self._cache.pace.begin_step(delays_others=bool(self._ready))
        is_finished = await self._thread.run(run_steps, job, self._cache.pace)
        if not is_finished:
            return
        self._jobs.remove(job)
        if job.session is None:
            job.settle(None)
        elif not job.session.is_closed:
            self._ready.add(job.session)
            self._on_ready(job.session)
