"""Sessions in any order of openings, commits, guesses, rewinds, questions and closings.

Each answer is what a full recompute gives, or the error that reward.proto states.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reward_svc.messages import Answer, Reason
from reward_svc.model import PersRM
from tests.reward_svc.oracle import Oracle
from tests.reward_svc.replica import (
    BRIEF,
    TOLERANCE,
    Generator,
    Replica,
    candidate_rows,
    commit_rows,
    context,
    rewards_of,
    running_replica,
)
from tests.reward_svc.test_states import Known

NUM_SLOTS = 6
CONTEXTS = [BRIEF, context(("Be brief.", 0.5), ("Be kind.", 2.0), prompt="Once")]
NUM_ROWS = [2, 3]
TOKENS = st.lists(st.integers(6, 250), min_size=1, max_size=3)
CANDIDATES = [7, 99, 30, 200]
NUMBER = st.integers(0, 2)

OPERATION = st.one_of(
    st.tuples(
        st.just("open"), NUMBER, st.integers(0, 1), st.lists(st.integers(6, 250), max_size=3)
    ),
    st.tuples(st.just("close"), NUMBER),
    # How far back the first token goes, and the tokens; 5 is further than there are.
    st.tuples(st.just("commit"), NUMBER, st.integers(-1, 4), TOKENS),
    st.tuples(st.just("guess"), NUMBER, st.integers(-1, 4), TOKENS),
    st.tuples(st.just("ask"), NUMBER, st.integers(-1, 4), st.booleans()),
)


@dataclass
class Session:
    """What a session should hold."""

    what: int
    epoch: int
    known: Known


@dataclass
class World:
    """Carries out operations on a replica and on lists of tokens."""

    replica: Replica
    generator: Generator
    oracle: Oracle
    sessions: dict[int, Session] = field(default_factory=dict)
    epochs: Callable[[], int] = field(default_factory=lambda: count().__next__)
    batch_ids: Callable[[], int] = field(default_factory=lambda: count(1).__next__)

    async def open(self, number: int, what: int, written: list[int]) -> None:
        """Open a session, or open it again; where there is no room it is closed."""
        self.sessions.pop(number, None)
        epoch, free = self.epochs(), NUM_SLOTS - self.num_used
        opening = self.generator.opening(number, CONTEXTS[what], written, epoch)
        await self.generator.send(openings=(opening,))
        answer = await self.generator.next_answer()
        if NUM_ROWS[what] > free:
            self.expect_fault(answer, number, Reason.NO_FREE_SLOTS)
            return
        assert [one.epoch for one in answer.opened] == [epoch], answer
        self.sessions[number] = Session(what, epoch, Known(list(written), len(written)))

    async def close(self, number: int) -> None:
        await self.generator.close(number)
        self.sessions.pop(number, None)

    async def commit(self, number: int, back: int, tokens: list[int]) -> None:
        await self.write(number, back, tokens, "commits")

    async def guess(self, number: int, back: int, tokens: list[int]) -> None:
        await self.write(number, back, tokens, "tentative")

    async def write(self, number: int, back: int, tokens: list[int], part: str) -> None:
        """Commit tokens from `back` before the end on; -1 leaves one out, which is an error."""
        session = self.sessions.get(number)
        end = 0 if session is None else len(session.known.written)
        start = max(0, end - back)
        rows = [(number, start + i, token) for i, token in enumerate(tokens)]
        epoch = 0 if session is None else session.epoch
        await self.generator.send(**{part: commit_rows(*rows, epoch=epoch)})
        if session is None or start > end:
            reason = Reason.UNKNOWN_SESSION if session is None else Reason.OUT_OF_STEP
            for _ in rows:
                self.expect_fault(await self.generator.next_answer(), number, reason)
            return
        await self.replica.settle()  # else it may be run together with what comes next
        session.known.commit(start, tokens)

    async def ask(self, number: int, back: int, is_late: bool) -> None:
        """Ask for rewards; a late question is of the epoch before."""
        session = self.sessions.get(number)
        end = 0 if session is None else len(session.known.written)
        step = max(0, end - back)
        epoch = 0 if session is None else session.epoch - is_late
        batch_id = self.batch_ids()
        asked = candidate_rows(batch_id, (number, step, CANDIDATES), epoch=max(0, epoch))
        await self.generator.send(candidates=asked)
        answer = await self.generator.next_answer()
        assert answer.batch_id == batch_id
        if session is None:
            self.expect_fault(answer, number, Reason.UNKNOWN_SESSION)
        elif max(0, epoch) != session.epoch or not session.known.first <= step <= end:
            self.expect_fault(answer, number, Reason.OUT_OF_STEP)
        else:
            assert not answer.faults, answer.faults
            assert answer.scored is not None
            mine = rewards_of(answer.scored)[number, step]
            what = CONTEXTS[session.what]
            theirs = self.oracle.rewards(what, session.known.written[:step], CANDIDATES)
            torch.testing.assert_close(mine, theirs, **TOLERANCE)

    @property
    def num_used(self) -> int:
        return sum(NUM_ROWS[session.what] for session in self.sessions.values())

    def expect_fault(self, answer: Answer, number: int, reason: Reason) -> None:
        found = [(fault.session, fault.reason) for fault in answer.faults]
        assert found == [(number, reason)], answer

    async def check_rows(self) -> None:
        """Free and used rows are all rows."""
        await self.replica.settle()
        load = self.replica.batcher.load
        assert load.num_sessions == len(self.sessions)
        assert load.num_free_slots == NUM_SLOTS - self.num_used


async def play(model: PersRM, oracle: Oracle, operations: list[tuple[object, ...]]) -> None:
    async with running_replica(model, num_slots=NUM_SLOTS, prefill_chunk=8) as replica:
        world = World(replica, replica.generator(), oracle)
        for name, *arguments in operations:
            await getattr(world, str(name))(*arguments)
            await world.check_rows()
        for number in range(3):
            await world.close(number)
        await world.check_rows()
        assert replica.batcher.load.num_free_slots == NUM_SLOTS


@pytest.mark.slow
def test_any_order_of_operations_gives_what_a_full_recompute_gives(
    model: PersRM, oracle: Oracle
) -> None:
    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.lists(OPERATION, min_size=5, max_size=25))
    def run(operations: list[tuple[object, ...]]) -> None:
        asyncio.run(play(model, oracle, [("open", 0, 0, []), ("open", 1, 1, [9]), *operations]))

    run()
