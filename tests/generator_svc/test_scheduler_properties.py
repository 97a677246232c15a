"""The scheduler in any order of arrivals, steps and departures: none is lost or doubled."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from generator_svc.engine.scheduler import Scheduler
from generator_svc.engine.sequence import Sequence
from svc_common.errors import OverloadedError
from svc_common.lm.slots import Row
from tests.generator_svc.test_scheduler import sequence


class SchedulerMachine(RuleBasedStateMachine):
    """Does to sequences what the engine does, and keeps a list of those that should be there."""

    @initialize(num_slots=st.integers(1, 4), max_waiting=st.integers(0, 4))
    def start(self, num_slots: int, max_waiting: int) -> None:
        self.num_slots, self.max_waiting = num_slots, max_waiting
        self.scheduler = Scheduler(num_slots=num_slots, max_waiting=max_waiting)
        self.live: list[Sequence] = []
        self.rows_given: list[Row] = []  # not given back yet
        self.rows_owed: list[Row] = []  # of sequences that were removed since the last batch

    @rule(num_prompt_tokens=st.integers(1, 6))
    def arrive(self, num_prompt_tokens: int) -> None:
        one, before = sequence(num_prompt_tokens), self.scheduler.everyone
        room = self.max_waiting + self.num_slots - self.scheduler.num_active
        is_full = self.scheduler.num_waiting >= room
        if not is_full:
            self.scheduler.add(one)
            self.live.append(one)
            return
        with pytest.raises(OverloadedError) as caught:
            self.scheduler.add(one)
        assert caught.value.retry_after_s
        assert self.scheduler.everyone == before

    @rule()
    def admit(self) -> None:
        before = self.scheduler.active
        admitted = self.scheduler.admit()
        assert self.scheduler.active == [*before, *admitted]
        assert len(before) == self.num_slots or not (
            self.scheduler.num_waiting and self.scheduler.num_active < self.num_slots
        )

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Finish or be cancelled, wherever the sequence is."""
        one = data.draw(st.sampled_from(self.live))
        if one.row is not None:
            self.rows_owed.append(one.row)
        self.scheduler.remove(one)
        self.live.remove(one)
        assert one.row is None

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """Carry out a batch as far as the pace allowed."""
        batch = self.scheduler.next_batch()
        active = self.scheduler.active
        assert batch.closes == self.rows_owed
        self.rows_owed = []
        self.rows_given = [row for row in self.rows_given if row not in batch.closes]
        busy = [*batch.decodes, *batch.prefills]
        assert len(busy) == len(set(busy))
        assert set(busy) <= set(active)
        assert set(batch.decodes) == {one for one in active if one.needs_forward}
        assert set(batch.prefills) == {one for one in active if not is_read(one)}
        assert batch.delays_others == any(is_read(one) for one in active)
        assert batch.is_empty == (not batch.closes and not busy)
        for one in batch.decodes:
            one.candidates = object()  # type: ignore[assignment]
        for one in batch.prefills[: data.draw(st.integers(0, len(batch.prefills)))]:
            self.read(one, data.draw(st.integers(1, 3)))

    @rule()
    def choose(self) -> None:
        """Give each that has candidates its next token."""
        for one in self.scheduler.active:
            if one.candidates is not None:
                one.candidates = None
                one.token_ids.append(7)

    def read(self, one: Sequence, num_tokens: int) -> None:
        if one.row is None:
            one.row = Row(group=0, index=len(self.rows_given))
            self.rows_given.append(one.row)
            assert len(self.rows_given) <= self.num_slots, "more rows than slots are in use"
        one.num_prefilled = min(len(one.prompt_ids), one.num_prefilled + num_tokens)
        if is_read(one):
            one.candidates = object()  # type: ignore[assignment]

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        everyone = self.scheduler.everyone
        assert len(everyone) == len(set(everyone))
        assert set(everyone) == set(self.live)
        assert self.scheduler.num_active + self.scheduler.num_waiting == len(everyone)
        assert set(self.scheduler.active) <= set(everyone)

    @invariant()
    def bounds_are_kept(self) -> None:
        assert self.scheduler.num_active <= self.num_slots
        assert len(self.live) <= self.num_slots + self.max_waiting


def is_read(one: Sequence) -> bool:
    return one.num_prefilled >= len(one.prompt_ids)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
