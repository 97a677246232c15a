"""The slot table and the scheduler under any order of arrivals and departures."""

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from generator_svc.decoding.candidates import Candidates
from generator_svc.engine.scheduler import Scheduler
from generator_svc.engine.sequence import GenerationParams, Sequence
from svc_common.errors import OverloadedError
from svc_common.lm.slots import Row, SlotTable
from svc_common.lm.tokenizer import TextStream, Tokenizer
from tests.tiny_model import tiny_tokenizer

TOKENIZER = Tokenizer(tiny_tokenizer(), frozenset())


def sequence(num_prompt_tokens: int = 5) -> Sequence:
    params = GenerationParams(beta=0.0, top_k=3, temperature=0.0, top_p=1.0, seed=0, max_tokens=4)
    return Sequence("r", list(range(num_prompt_tokens)), params, TextStream(TOKENIZER), frozenset())


class SlotTableMachine(RuleBasedStateMachine):
    """Models each row's contents as a marker that follows the moves it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.table = SlotTable(6)
        self.arena: list[object] = [None] * 6
        self.markers: dict[Row, object] = {}

    @precondition(lambda self: self.table.num_free)
    @rule(group=st.integers(0, 1))
    def open(self, group: int) -> None:
        row, moves = self.table.open(group)
        self.move(moves)
        marker = object()
        self.arena[row.index] = self.markers[row] = marker

    @precondition(lambda self: self.markers)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(sorted(self.markers, key=lambda r: r.index)))
        del self.markers[row]
        self.move(self.table.close(row))

    def move(self, moves: list[tuple[int, int]]) -> None:
        for source, target in moves:
            self.arena[target] = self.arena[source]

    @invariant()
    def contents_follow_their_rows(self) -> None:
        for row, marker in self.markers.items():
            assert self.arena[row.index] is marker

    @invariant()
    def rows_are_dense_and_ordered_by_group(self) -> None:
        rows = self.table.rows
        assert [row.index for row in rows] == list(range(len(rows)))
        assert [row.group for row in rows] == sorted(row.group for row in rows)
        assert self.table.num_free + len(rows) == 6
        assert set(rows) == set(self.markers)


TestSlotTable = SlotTableMachine.TestCase
TestSlotTable.settings = settings(max_examples=60, deadline=None)


def test_sequences_start_in_order_of_arrival_and_never_exceed_the_slots() -> None:
    scheduler = Scheduler(num_slots=2, max_waiting=3)
    arrived = [sequence() for _ in range(3)]
    for one in arrived:
        scheduler.add(one)
    assert scheduler.admit() == arrived[:2]
    assert scheduler.admit() == []
    scheduler.remove(arrived[0])
    assert scheduler.admit() == arrived[2:]


def test_a_full_queue_refuses_with_a_delay_and_keeps_what_it_holds() -> None:
    scheduler = Scheduler(num_slots=2, max_waiting=1)
    for _ in range(3):  # two for the free slots, one to wait
        scheduler.add(sequence())
    with pytest.raises(OverloadedError, match=r"at most 1 requests may wait") as caught:
        scheduler.add(sequence())
    assert caught.value.retry_after_s
    assert scheduler.num_waiting == 3
    scheduler.admit()
    with pytest.raises(OverloadedError):
        scheduler.add(sequence())
    assert scheduler.num_waiting == 1


def test_unread_prompts_go_on_in_order_of_arrival_beside_all_decodes() -> None:
    scheduler = Scheduler(num_slots=4, max_waiting=4)
    running, first, second = sequence(), sequence(6), sequence(3)
    for one in (first, second):
        scheduler.add(one)
    scheduler.admit()
    batch = scheduler.next_batch()
    assert (batch.decodes, batch.prefills, batch.delays_others) == ([], [first, second], False)
    scheduler.add(running)
    scheduler.admit()
    running.num_prefilled = 5
    batch = scheduler.next_batch()  # its candidates are not chosen from yet
    assert (batch.decodes, batch.prefills, batch.delays_others) == ([], [first, second], True)
    running.token_ids.append(1)
    first.num_prefilled = 6
    first.candidates = Candidates(torch.zeros(1), torch.zeros(1))
    batch = scheduler.next_batch()
    assert (batch.decodes, batch.prefills, batch.delays_others) == ([running], [second], True)


def test_a_removed_sequence_gives_its_row_back_with_the_next_batch() -> None:
    scheduler = Scheduler(num_slots=1, max_waiting=1)
    one, row = sequence(), Row(group=0, index=0)
    scheduler.add(one)
    scheduler.admit()
    one.row = row
    scheduler.remove(one)
    assert scheduler.next_batch().closes == [row]
    assert scheduler.next_batch().is_empty
