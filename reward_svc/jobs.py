"""Work done between decode batches, a slice at a time: prefills and whole answers."""

import asyncio
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from reward_svc.stream import Session
from svc_common.lm.prefill_pace import PrefillPace


@dataclass(eq=False)
class Job:
    """Work in steps, each yielding how many tokens it ran.

    A job either prefills `session` or answers a call of its own that waits for `done`.
    """

    steps: Generator[int, None, Any]
    session: Session | None = None
    done: "asyncio.Future[Any] | None" = None
    result: Any = None

    def settle(self, error: Exception | None) -> None:
        """Give the caller, if it still waits, the result or the error."""
        if self.done is None or self.done.done():
            return
        if error is None:
            self.done.set_result(self.result)
        else:
            self.done.set_exception(error)

    @property
    def is_unwanted(self) -> bool:
        """Whether nobody waits for it any more."""
        if self.session is not None:
            return self.session.is_closed
        return self.done is not None and self.done.done()


@dataclass
class JobQueue:
    """Prefills in the order they came, and the other jobs in theirs; the two take turns."""

    _prefills: deque[Job] = field(default_factory=deque)
    _calls: deque[Job] = field(default_factory=deque)
    _is_call_next: bool = False

    def __len__(self) -> int:
        return len(self._prefills) + len(self._calls)

    def add(self, job: Job) -> None:
        (self._calls if job.session is None else self._prefills).append(job)

    def first(self) -> Job:
        """Return the job whose turn it is; there must be one."""
        is_call = bool(self._calls) and (self._is_call_next or not self._prefills)
        self._is_call_next = not is_call
        return (self._calls if is_call else self._prefills)[0]

    def remove(self, job: Job) -> None:
        (self._calls if job.session is None else self._prefills).remove(job)


def run_steps(job: Job, pace: PrefillPace) -> bool:
    """Run steps until the pace leaves no tokens; return whether the job is finished.

    Runs on the model thread. A job that nobody waits for is closed, which frees its rows.
    """
    if job.is_unwanted:
        job.steps.close()
        return True
    while pace.left > 0:
        try:
            pace.spend(next(job.steps))
        except StopIteration as stop:
            job.result = stop.value
            return True
    return False
