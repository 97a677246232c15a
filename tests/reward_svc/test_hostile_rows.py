"""A generator that sends any rows at any time: it is answered, and no other notices."""

import numpy as np
import pytest

from reward_svc.messages import CandidateRows, CommitRows
from reward_svc.model import PersRM
from tests.reward_svc.oracle import Oracle
from tests.reward_svc.replica import (
    BRIEF,
    TOLERANCE,
    Generator,
    context,
    random_candidates,
    running_replica,
)
from tests.tiny_model import VOCABULARY_SIZE

STEPS = [0, 0, 1, 1, 2, 3, 4, 60, 61, 250, (1 << 31) - 1, (1 << 32) - 1]
TOKENS = [7, 8, 9, 10, VOCABULARY_SIZE - 1, VOCABULARY_SIZE, (1 << 32) - 1]
NUM_SESSIONS = 4
CONTEXTS = [BRIEF, context(("Be kind.", 2.0), ("Be brief.", 0.5))]


def any_commits(rng: np.random.Generator) -> CommitRows | None:
    """Return up to 12 rows; often of consecutive steps, as a right one would be."""
    rows: list[tuple[int, int, int, int]] = []
    for _ in range(int(rng.integers(4))):
        number, epoch = int(rng.integers(NUM_SESSIONS + 1)), int(rng.integers(2))
        start, token = int(rng.choice(STEPS)), int(rng.choice(TOKENS))
        length = int(rng.integers(1, 5))
        steps = [min(start + i, (1 << 32) - 1) for i in range(length)]
        rows += [(number, epoch, step, token if step == start else 11) for step in steps]
    return CommitRows.of(rows) if rows else None


def any_candidates(rng: np.random.Generator, batch_id: int) -> CandidateRows:
    rows = [
        (
            int(rng.integers(NUM_SESSIONS + 1)),
            int(rng.integers(2)),
            int(rng.choice(STEPS)),
            random_candidates(rng),
        )
        for _ in range(int(rng.integers(5)))
    ]
    return CandidateRows.of(batch_id, rows, 0.0)


async def send_anything(generator: Generator, rng: np.random.Generator, batch_id: int) -> bool:
    """Send a message; return whether it had candidates."""
    openings = [
        generator.opening(
            int(rng.integers(NUM_SESSIONS)),
            CONTEXTS[int(rng.integers(2))],
            [12] * int(rng.integers(3)),
            epoch=int(rng.integers(2)),
        )
        for _ in range(int(rng.integers(3)) if rng.random() < 0.4 else 0)
    ]
    has_candidates = rng.random() < 0.5
    await generator.send(
        closes=tuple(rng.integers(NUM_SESSIONS + 1, size=int(rng.integers(2))).tolist())
        if rng.random() < 0.3
        else (),
        openings=tuple(openings),
        commits=any_commits(rng),
        candidates=any_candidates(rng, batch_id) if has_candidates else None,
        tentative=any_commits(rng),
    )
    return bool(has_candidates)


@pytest.mark.parametrize("seed", range(4))
async def test_rows_of_any_kind_are_answered_and_hurt_no_other_generator(
    model: PersRM, oracle: Oracle, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    async with running_replica(model, num_slots=12, prefill_chunk=8) as replica:
        honest, hostile = replica.generator(), replica.generator()
        await honest.open(1, BRIEF)
        written: list[int] = []
        batches = []
        for batch_id in range(1, 60):
            if await send_anything(hostile, rng, batch_id):
                batches.append(batch_id)
            if batch_id % 6:
                continue
            written.append(20 + batch_id)
            await honest.commit((1, len(written) - 1, written[-1]))
            (rewards,) = await honest.score((1, len(written), [7, 99, 30]))
            expected = oracle.rewards(BRIEF, written, [7, 99, 30])
            assert rewards.tolist() == pytest.approx(  # type: ignore[union-attr]
                expected.tolist(), rel=TOLERANCE["rtol"], abs=TOLERANCE["atol"]
            )
        replica.batcher.intake.half_close(hostile.stream)
        answered = []
        while (answer := await hostile.stream.next_answer()) is not None:
            answered += [answer.batch_id] * (answer.scored is not None)
            reasons = {fault.reason.name for fault in answer.faults}
            assert "INTERNAL" not in reasons
        assert sorted(answered) == batches
        replica.batcher.intake.end_stream(hostile.stream)
        await honest.close(1)
        await replica.settle()
        assert replica.batcher.load.num_free_slots == 12
