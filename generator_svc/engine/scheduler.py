"""Which sequences take part in the next step."""

from collections import deque
from dataclasses import dataclass, field

from generator_svc.engine.sequence import Sequence
from svc_common.errors import OverloadedError
from svc_common.lm.slots import Row


@dataclass(frozen=True)
class PromptRead:
    """A sequence of whose prompt a step read a part, and whether it was the first part."""

    sequence: Sequence
    is_first: bool


@dataclass
class Batch:
    """One step: rows to give back, sequences that run their last token, prompts to go on with.

    `prefills` are in order of arrival; as many of them as the step has time for leave a note in
    `reads`. With `delays_others` there are sequences that wait for the step's end.
    """

    closes: list[Row] = field(default_factory=list)
    decodes: list[Sequence] = field(default_factory=list)
    prefills: list[Sequence] = field(default_factory=list)
    delays_others: bool = False
    reads: list[PromptRead] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.closes or self.decodes or self.prefills)


class Scheduler:
    """Keeps at most `num_slots` sequences active; the others wait in order of arrival."""

    def __init__(self, *, num_slots: int, max_waiting: int) -> None:
        self._num_slots = num_slots
        self._max_waiting = max_waiting
        self._waiting: deque[Sequence] = deque()
        self._active: list[Sequence] = []
        self._closes: list[Row] = []

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_active(self) -> int:
        return len(self._active)

    @property
    def active(self) -> list[Sequence]:
        return list(self._active)

    @property
    def everyone(self) -> list[Sequence]:
        """Active and waiting sequences."""
        return [*self._active, *self._waiting]

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence at the end of the queue.

        Raises:
            OverloadedError: the queue is full; nothing was done.
        """
        num_free = self._num_slots - len(self._active)
        if len(self._waiting) >= self._max_waiting + num_free:
            raise OverloadedError(
                f"queue: at most {self._max_waiting} requests may wait while {self._num_slots} are"
                f" written, {len(self._waiting)} do"
            )
        self._waiting.append(sequence)

    def admit(self) -> list[Sequence]:
        """Move waiting sequences to free slots and return them."""
        admitted: list[Sequence] = []
        while self._waiting and len(self._active) < self._num_slots:
            sequence = self._waiting.popleft()
            self._active.append(sequence)
            admitted.append(sequence)
        return admitted

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence; its row is given back with the next batch."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)
            return
        self._active.remove(sequence)
        if sequence.row is not None:
            self._closes.append(sequence.row)
            sequence.row = None

    def next_batch(self) -> Batch:
        """Return what the next step works on: all that can decode, and all unread prompts."""
        batch = Batch(closes=self._closes)
        self._closes = []
        batch.decodes = [s for s in self._active if s.needs_forward]
        batch.prefills = [s for s in self._active if s.num_prefilled < len(s.prompt_ids)]
        batch.delays_others = len(batch.prefills) < len(self._active)
        return batch
