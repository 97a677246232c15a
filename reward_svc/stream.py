"""One generator's stream: its sessions, what waits for them, and the answers on their way out."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from reward_svc.messages import Answer, Opening, Reason, RowFault
from reward_svc.states import Found, States
from svc_common.array_fields import unpack
from svc_common.errors import OverloadedError
from svc_common.lm.slots import Row

if TYPE_CHECKING:
    from reward_svc.scorer import Part

MAX_WAITING_MESSAGES = 64  # a generator needs two: its commits and its candidates
MAX_UNREAD_ANSWERS = 4096
MAX_KNOWN_GROUPS = 64  # of sessions that a generator named together, since one was opened or closed


@dataclass(eq=False)
class Session:
    """One answer under its preferences: rows of the KV cache, one a prompt.

    `hidden` `[R, D]` is the last hidden state of each row after the prefill; `states` and `place`
    say where those of the last forward are, `earlier` where the one before them is. `vectors`
    `[P, 2D]` belong to the terms that have one, and are None if no term has.
    """

    stream: "Stream"
    opening: Opening
    rows: list[Row] = field(default_factory=list)
    hidden: Tensor | None = None
    vectors: Tensor | None = None
    states: States | None = None
    place: int = 0
    earlier: Found | None = None
    num_committed: int = 0
    num_cached_tokens: int = 0
    forward_s: float = 0.0
    is_closed: bool = False

    @property
    def is_ready(self) -> bool:
        return self.hidden is not None

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return self.opening.plan.longest

    def fault(self, step: int, reason: Reason, message: str) -> RowFault:
        return RowFault(self.opening.session, self.opening.epoch, step, reason, message)


class Group:
    """Sessions that a message names together, one a row; kept while it names them again."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self.sessions = list(sessions)
        self._is_ready = False  # once they are, they stay so
        self.parts: list[Part] | None = None  # made when they are first scored

    @cached_property
    def multiplicity(self) -> int:
        """How often the most frequent session is named."""
        return max(Counter(self.sessions).values(), default=0)

    @cached_property
    def longest(self) -> list[int]:
        """Tokens of each session's longest prompt."""
        return [session.longest for session in self.sessions]

    @property
    def is_ready(self) -> bool:
        if not self._is_ready:
            self._is_ready = all(session.is_ready for session in self.sessions)
        return self._is_ready


class Stream:
    """What the batcher knows of a generator; `sessions` by number."""

    def __init__(self) -> None:
        self.sessions: dict[int, Session] = {}
        self.room = asyncio.Semaphore(MAX_WAITING_MESSAGES)
        self.num_unanswered = 0  # opens and batches
        self.is_half_closed = False
        self.is_ended = False
        self._is_finished = False
        self._num_unread = 0  # when there were too many
        self._answers: asyncio.Queue[Answer | None] = asyncio.Queue()
        self._groups: dict[tuple[bytes, bytes], Group] = {}

    def add(self, session: Session) -> None:
        self.sessions[session.opening.session] = session
        self._groups.clear()

    def remove(self, session: Session) -> None:
        self.sessions.pop(session.opening.session, None)
        self._groups.clear()

    def group(self, numbers: bytes, epochs: bytes) -> Group | None:
        """Return the sessions of a message's rows, or None if one is not open as it says.

        A generator names the same sessions step after step, so it is looked up as a whole.
        """
        group = self._groups.get((numbers, epochs))
        if group is not None:
            return group
        found = [self.sessions.get(number) for number in unpack(numbers)]
        sessions = [session for session in found if session is not None]
        if len(sessions) < len(found):
            return None
        if [session.opening.epoch for session in sessions] != unpack(epochs):
            return None
        if len(self._groups) >= MAX_KNOWN_GROUPS:
            self._groups.clear()
        group = self._groups[numbers, epochs] = Group(sessions)
        return group

    def send(self, answer: Answer) -> None:
        """Put an answer on its way; one more than may wait to be read ends the stream."""
        if self.is_ended or self._is_finished:
            return
        self._answers.put_nowait(answer)
        if self._answers.qsize() > MAX_UNREAD_ANSWERS:
            self._num_unread = self._answers.qsize()
            self.finish()

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
            OverloadedError: too many answers waited to be read.
        """
        if self._num_unread:
            raise OverloadedError(
                f"answers: at most {MAX_UNREAD_ANSWERS} may wait to be read, got {self._num_unread}"
            )
