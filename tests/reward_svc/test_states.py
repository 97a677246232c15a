"""Hidden states that are kept: no more than two forwards' a session, and always the right ones."""

import gc
import weakref
from dataclasses import dataclass
from itertools import count

import numpy as np
import pytest
import torch

from reward_svc.model import PersRM
from reward_svc.stream import Session
from tests.reward_svc.oracle import Oracle
from tests.reward_svc.replica import (
    BRIEF,
    TOLERANCE,
    Generator,
    Replica,
    candidate_rows,
    commit_rows,
    context,
    random_candidates,
    rewards_of,
    running_replica,
)
from tests.tiny_model import VOCABULARY_SIZE

CONTEXTS = [
    BRIEF,
    context(("Be brief.", 0.5), ("Be kind.", 2.0)),
    context(("Be kind.", 1.0), prompt="Once upon a time"),
]


def session_of(replica: Replica, generator: Generator, number: int) -> Session:
    assert generator.stream in replica.batcher.intake.streams
    return generator.stream.sessions[number]


async def test_a_session_keeps_the_hidden_states_of_two_forwards_and_no_more(
    model: PersRM,
) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        for number in (1, 2):
            await generator.open(number, BRIEF)
        seen = []
        for step in range(8):
            await generator.commit((1, step, 42), (2, step, 43))
            if step % 3 == 2:  # taken back, one further than the other
                await generator.commit((1, step, 44), (2, step - 1, 45), (2, step, 46))
            await replica.settle()
            sessions = [session_of(replica, generator, number) for number in (1, 2)]
            seen += [weakref.ref(session.states) for session in sessions]
            del sessions
        gc.collect()
        assert 1 <= len({state() for state in seen} - {None}) <= 4
        await generator.close(1, 2)
        await generator.open(3, BRIEF)  # until then the model thread holds its last call
        await replica.settle()
        gc.collect()
        assert not any(state() is not None for state in seen)


@dataclass
class Known:
    """What a session holds, and the first position that may be asked for."""

    written: list[int]
    first: int

    def commit(self, start: int, tokens: list[int]) -> None:
        is_kept = self.first <= start
        self.written = self.written[:start] + tokens
        self.first = start if is_kept else start + 1


@pytest.mark.parametrize("seed", range(3))
async def test_commits_guesses_and_rewinds_at_random_give_what_a_full_recompute_gives(
    model: PersRM, oracle: Oracle, seed: int
) -> None:
    rng = np.random.default_rng(seed)

    def tokens(most: int) -> list[int]:
        ids: list[int] = rng.integers(VOCABULARY_SIZE, size=int(rng.integers(most + 1))).tolist()
        return ids

    async with running_replica(model) as replica:
        generator = replica.generator()
        known = {}
        for number, what in enumerate(CONTEXTS):
            known[number] = Known(tokens(4), 0)
            known[number].first = len(known[number].written)
            await generator.open(number, what, known[number].written)
        batch_ids = count(1)
        for _ in range(12):
            rows: list[list[tuple[int, int, int]]] = [[], []]
            asked = []
            for part, its_rows in enumerate(rows):
                for number, session in known.items():
                    back = int(rng.integers(4)) if rng.random() < 0.5 and part == 0 else 0
                    start = max(0, len(session.written) - back)
                    new = tokens(3)
                    if new:
                        its_rows += [(number, start + i, token) for i, token in enumerate(new)]
                        session.commit(start, new)
                    if part == 0:
                        step = int(rng.integers(session.first, len(session.written) + 1))
                        asked.append((number, step, random_candidates(rng)))
                if part == 0:
                    held = {number: list(session.written) for number, session in known.items()}
            await generator.send(
                commits=commit_rows(*rows[0]) if rows[0] else None,
                candidates=candidate_rows(next(batch_ids), *asked),
                tentative=commit_rows(*rows[1]) if rows[1] else None,
            )
            answer = await generator.next_answer()
            assert answer.scored is not None
            assert not answer.faults
            for number, step, candidates in asked:
                mine = rewards_of(answer.scored)[number, step]
                theirs = oracle.rewards(CONTEXTS[number], held[number][:step], candidates)
                torch.testing.assert_close(mine, theirs, **TOLERANCE)
