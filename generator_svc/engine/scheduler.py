"""Which sequences take part in the next step."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from generator_svc.engine.sequence import Sequence
from svc_common.errors import OverloadedError
from svc_common.lm.slots import Row


@dataclass
class Batch:
    """One forward: rows to give back, sequences that run their last token, one prompt chunk."""

    closes: list[Row] = field(default_factory=list)
    decodes: list[Sequence] = field(default_factory=list)
    prefill: Sequence | None = None
    chunk: list[int] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.closes or self.decodes or self.prefill)


class Scheduler:
    """Keeps at most `num_slots` sequences active; the others wait in order of arrival.

    Args:
        num_slots: most active sequences.
        max_waiting: most that wait.
        prefill_chunk: prompt tokens of one step.
        reserve: takes what else a sequence needs; False while there is not enough for it.
    """

    def __init__(
        self,
        *,
        num_slots: int,
        max_waiting: int,
        prefill_chunk: int,
        reserve: Callable[[Sequence], bool] = lambda sequence: True,
    ) -> None:
        self._num_slots = num_slots
        self._max_waiting = max_waiting
        self._prefill_chunk = prefill_chunk
        self._reserve = reserve
        self._waiting: deque[Sequence] = deque()
        self._active: list[Sequence] = []
        self._closes: list[Row] = []

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

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
        """Move waiting sequences to free slots and return them; none overtakes another."""
        admitted: list[Sequence] = []
        while self._waiting and len(self._active) < self._num_slots:
            if not self._reserve(self._waiting[0]):
                break
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
        """Return what the next forward works on: all that can decode, and one prompt chunk.

        One chunk a step bounds what a long prompt adds to the time between others' tokens.
        """
        batch = Batch(closes=self._closes)
        self._closes = []
        batch.decodes = [s for s in self._active if s.needs_forward]
        batch.prefill = next((s for s in self._active if s.num_prefilled < len(s.prompt_ids)), None)
        if batch.prefill is not None:
            start = batch.prefill.num_prefilled
            batch.chunk = batch.prefill.prompt_ids[start : start + self._prefill_chunk]
        return batch
