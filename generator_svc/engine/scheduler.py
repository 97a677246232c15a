"""Which sequences take part in the next step, and which of those that wait begin next."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from generator_svc.engine.bookings import Bookings
from generator_svc.engine.fair_line import FairLine, Priority
from generator_svc.engine.sequence import Sequence
from generator_svc.engine.service_rate import ServiceRate
from generator_svc.engine.waiting_room import Claim, RoomLimits, WaitingRoom
from svc_common.lm.slots import Row

MAX_WAITING_TOKENS = 1 << 18


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


class Place:
    """Room in the queue for sequences that are still being prepared."""

    def __init__(self, room: WaitingRoom, claim: Claim) -> None:
        self._room = room
        self._left = claim
        room.hold(claim)

    def resize(self, num_tokens: int, num_free: int) -> None:
        """Hold another number of tokens, now that it is known.

        Raises:
            RefusedError: there is no room for so many; nothing is held any more.
        """
        claim = replace(self._left, num_tokens=num_tokens)
        self.release()
        self._room.check(claim, num_free)
        self._room.hold(claim)
        self._left = claim

    def fill(self) -> None:
        """Give up a sequence's part, as the sequence itself waits from now on."""
        num_left = self._left.num_sequences
        part = replace(self._left, num_sequences=1, num_tokens=self._left.num_tokens // num_left)
        self._room.give(part)
        self._left = replace(
            self._left,
            num_sequences=num_left - 1,
            num_tokens=self._left.num_tokens - part.num_tokens,
        )

    def release(self) -> None:
        """Give up what no sequence came for; may be repeated."""
        if self._left.num_sequences:
            self._room.give(self._left)
            self._left = replace(self._left, num_sequences=0, num_tokens=0)


class Scheduler:
    """Keeps at most `num_slots` sequences active; the others wait, in the order of `FairLine`.

    Args:
        num_slots: sequences that are active at once.
        max_waiting: sequences that may wait, beside those that free slots are there for.
        max_waiting_tokens: tokens that those may claim.
        weight_of: a tenant's share of the starts relative to others'.
    """

    def __init__(
        self,
        *,
        num_slots: int,
        max_waiting: int,
        max_waiting_tokens: int = MAX_WAITING_TOKENS,
        weight_of: Callable[[str], float] = lambda _: 1.0,
    ) -> None:
        self._num_slots = num_slots
        self._line: FairLine[Sequence] = FairLine(weight_of)
        self._active: list[Sequence] = []
        self._closes: list[Row] = []
        self.rate = ServiceRate(num_slots)
        limits = RoomLimits(max_waiting, max_waiting_tokens)
        self._room = WaitingRoom(limits, Bookings(self.rate).book)

    @property
    def num_waiting(self) -> int:
        return len(self._line)

    @property
    def num_held(self) -> int:
        """Sequences that wait or are being prepared for it."""
        return self._room.num_requests

    @property
    def num_held_tokens(self) -> int:
        """Tokens those claim, prompts and what may be written."""
        return self._room.num_tokens

    @property
    def num_active(self) -> int:
        return len(self._active)

    @property
    def active(self) -> list[Sequence]:
        return list(self._active)

    @property
    def everyone(self) -> list[Sequence]:
        """Active and waiting sequences."""
        return [*self._active, *self._line]

    def reserve(self, claim: Claim) -> Place:
        """Keep room for sequences that will come, before anything is spent on them.

        Raises:
            RefusedError: there is none; nothing was done.
        """
        self._room.check(claim, self._num_free)
        return Place(self._room, claim)

    def resize(self, place: Place, num_tokens: int) -> None:
        """Keep another number of tokens.

        Raises:
            RefusedError: there is no room for so many; the place is given up.
        """
        place.resize(num_tokens, self._num_free)

    def add(self, sequence: Sequence, place: Place | None = None) -> None:
        """Put a new sequence into the queue, in the place that is kept for it if there is one.

        Raises:
            RefusedError: there is neither place nor room; nothing was done.
        """
        claim = _claim(sequence)
        if place is None:
            self._room.check(claim, self._num_free)
        else:
            place.fill()
        self._room.hold(claim)
        self._line.push(sequence)

    def start_wait_s(self, tenant: str, priority: Priority) -> float:
        """Return how long a new request is sure to wait: for its tenant's own before it."""
        if self._num_free:
            return 0.0
        return self.rate.drain_s(self._line.tokens_ahead(tenant, priority))

    def is_waiting(self, sequence: Sequence) -> bool:
        """Whether it waits for a slot."""
        return sequence in self._line

    def admit(self) -> list[Sequence]:
        """Move waiting sequences to free slots and return them."""
        admitted: list[Sequence] = []
        while self._line and len(self._active) < self._num_slots:
            sequence = self._line.pop()
            self._room.give(_claim(sequence))
            sequence.started_at = time.perf_counter()
            self._active.append(sequence)
            admitted.append(sequence)
        return admitted

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence; its row is given back with the next batch."""
        if sequence in self._line:
            self._line.discard(sequence)
            self._room.give(_claim(sequence))
            return
        self._active.remove(sequence)
        self.rate.note_answer(time.perf_counter() - sequence.started_at, sequence.num_tokens)
        if sequence.token_ids:
            self.rate.note_prompt(sequence.timings.prefill_s, len(sequence.prompt_ids))
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

    @property
    def _num_free(self) -> int:
        return self._num_slots - len(self._active)


def _claim(sequence: Sequence) -> Claim:
    return Claim(sequence.tenant, sequence.priority, 1, sequence.num_tokens)
