"""Sessions that say what each preference gives: their parts sum up to the reward, bit by bit."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from reward_svc.messages import RewardRows, RowFault
from reward_svc.model import PersRM
from reward_svc.pad_config import Conditioning
from reward_svc.prompts import Reference, RewardContext
from svc_common.array_fields import unpack
from tests.reward_svc.oracle import Oracle
from tests.reward_svc.replica import BRIEF, Generator, context, running_replica

THREE = context(("Be brief.", 1.0), ("Be kind.", 0.5), ("Rhyme.", 2.0))
SESSIONS: list[tuple[RewardContext, bool]] = [
    (BRIEF, True),
    (dataclasses.replace(THREE, reference=Reference.BASE), True),
    (THREE, False),
    (THREE, True),
    (context(("Rhyme.", 0.3), ("Rhyme.", 0.3), prompt="Once upon a time"), True),
]


def parts_of(rows: RewardRows) -> dict[int, Tensor]:
    """Return what each preference gives, `[P, K]`, by session."""
    counts, numbers = unpack(rows.num_candidates), unpack(rows.num_preferences)
    values = torch.tensor(np.frombuffer(rows.preference_rewards, "<f4"))
    sizes = [count * number for count, number in zip(counts, numbers, strict=True)]
    pieces = values.split(sizes)
    shapes = zip(unpack(rows.sessions), pieces, numbers, counts, strict=True)
    return {session: piece.view(p, k) for session, piece, p, k in shapes if p}


async def scored(generator: Generator, *asked: tuple[int, int, list[int]]) -> RewardRows:
    await generator.ask(*asked)
    answer = await generator.next_answer()
    assert answer.scored is not None
    return answer.scored


@pytest.mark.parametrize("conditioning", list(Conditioning))
async def test_weighted_parts_sum_up_to_rewards_however_preferences_reach_the_model(
    models: dict[Conditioning, PersRM], conditioning: Conditioning
) -> None:
    """Preferences as vectors share a row, but each has a term, so each can be told apart."""
    oracle, rng = Oracle.of(conditioning=conditioning), np.random.default_rng(3)
    async with running_replica(models[conditioning], num_slots=32) as replica:
        generator = replica.generator()
        for number, (what, is_explained) in enumerate(SESSIONS):
            await generator.open(number, what, is_explained=is_explained)
        for step in range(3):
            counts = [5, 5, 5, 5, 5] if step == 0 else rng.integers(1, 9, len(SESSIONS)).tolist()
            asked = [
                (n, step, rng.choice(200, count, replace=False).tolist())
                for n, count in enumerate(counts)
            ]
            rows = await scored(generator, *asked)
            rewards = torch.tensor(np.frombuffer(rows.rewards, "<f4")).split(counts)
            parts = parts_of(rows)
            assert set(parts) == {n for n, (_, is_explained) in enumerate(SESSIONS) if is_explained}
            for n, its in parts.items():
                what = SESSIONS[n][0]
                weights = torch.tensor([preference.weight for preference in what.preferences])
                torch.testing.assert_close(weights @ its, rewards[n], rtol=1e-4, atol=1e-4)
                for preference, mine in zip(what.preferences, its, strict=True):
                    alone = dataclasses.replace(
                        what, preferences=(dataclasses.replace(preference, weight=1.0),)
                    )
                    expected = oracle.rewards(alone, [70] * step, asked[n][2])
                    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=3e-4)
            await generator.commit(*((n, step, 70) for n in range(len(SESSIONS))))


async def test_rewards_are_the_same_to_the_last_bit_whether_explained_or_not(
    model: PersRM,
) -> None:
    found = []
    async with running_replica(model, max_prefix_bytes=0) as replica:
        for is_explained in (False, True):
            generator = replica.generator()
            await generator.open(1, THREE, is_explained=is_explained)
            rows = await scored(generator, (1, 0, [7, 99, 30]))
            found.append(rows.rewards)
            assert bool(rows.num_preferences) == bool(rows.preference_rewards) == is_explained
            await generator.close(1)
    assert found[0] == found[1]


async def test_of_rows_that_fail_nothing_is_told_and_the_others_keep_their_places(
    model: PersRM,
) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        for number in (1, 2):
            await generator.open(number, THREE, is_explained=True)
        await generator.ask((1, 0, [7, 99]), (5, 0, [7]), (2, 3, [7]), (2, 0, [30, 31, 32]))
        answer = await generator.next_answer()
        assert {fault.session for fault in answer.faults} == {5, 2}
        assert all(isinstance(fault, RowFault) for fault in answer.faults)
        assert answer.scored is not None
        parts = parts_of(answer.scored)
        assert {session: tuple(its.shape) for session, its in parts.items()} == {
            1: (3, 2),
            2: (3, 3),
        }
