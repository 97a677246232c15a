"""Rows of the KV cache under any order of calls: each holds what a list of its tokens would."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from svc_common.lm.runner import SlotRunner
from svc_common.lm.slots import Row
from tests.svc_common.lm.token_forward import TokenForward, tokens_of

NUM_SLOTS, CONTEXT = 5, 12
TOKEN = st.integers(0, 9)


class RunnerMachine(RuleBasedStateMachine):
    """`held` says which tokens each open row should have."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = SlotRunner(TokenForward(), num_slots=NUM_SLOTS, context_length=CONTEXT)
        self.held: dict[Row, list[int]] = {}

    def draw_row(self, data: st.DataObject) -> Row:
        return data.draw(st.sampled_from(sorted(self.held, key=lambda row: row.index)))

    @precondition(lambda self: self.runner.num_free)
    @rule(group=st.integers(0, 1))
    def open(self, group: int) -> None:
        row = self.runner.open(group)
        assert row.length == 0
        self.held[row] = []

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        row = self.draw_row(data)
        self.runner.close(row)
        del self.held[row]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), num_tokens=st.integers(1, 4))
    def extend(self, data: st.DataObject, num_tokens: int) -> None:
        rows = sorted(self.held, key=lambda row: row.index)
        fitting = [row for row in rows if len(self.held[row]) + num_tokens <= CONTEXT]
        if not fitting:
            return
        chosen = data.draw(st.lists(st.sampled_from(fitting), min_size=1, unique=True))
        ids = [data.draw(st.lists(TOKEN, min_size=num_tokens, max_size=num_tokens)) for _ in chosen]
        hidden = self.runner.extend(chosen, ids)
        for row, its_ids, its_hidden in zip(chosen, ids, hidden, strict=True):
            self.held[row] += its_ids
            seen = [int(token) for token in its_hidden[-1, : len(self.held[row])]]
            assert seen == self.held[row]  # in the order of the rows it was asked for

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        row = self.draw_row(data)
        length = data.draw(st.integers(0, len(self.held[row])))
        self.runner.truncate(row, length)
        self.held[row] = self.held[row][:length]

    @precondition(lambda self: self.held and self.runner.num_free)
    @rule(data=st.data(), group=st.integers(0, 1))
    def copy_to_a_new_row(self, data: st.DataObject, group: int) -> None:
        if not self.runner.num_tokens:
            return  # nothing was run yet: there is no memory to copy
        target, source = self.runner.open(group), self.draw_row(data)
        length = data.draw(st.integers(0, len(self.held[source])))
        self.runner.copy(source, target, length)
        self.held[target] = self.held[source][:length]

    @precondition(lambda self: self.held and self.runner.num_tokens)
    @rule(data=st.data())
    def write_what_was_read(self, data: st.DataObject) -> None:
        source, target = self.draw_row(data), self.draw_row(data)
        start, most = len(self.held[target]), len(self.held[source])
        if start >= most:
            return
        contents = self.runner.read(source, start=start)
        length = data.draw(st.integers(0, most - start))
        self.runner.write(target, contents, length)
        self.held[target] += self.held[source][start : start + length]

    @invariant()
    def free_and_used_rows_are_all_rows(self) -> None:
        assert self.runner.num_free + len(self.held) == NUM_SLOTS
        assert sorted(row.index for row in self.held) == list(range(len(self.held)))

    @invariant()
    def content_follows_its_row(self) -> None:
        for row, tokens in self.held.items():
            assert row.length == len(tokens)
            if tokens:
                assert tokens_of(self.runner.read(row)) == tokens


TestRunner = RunnerMachine.TestCase
TestRunner.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
