"""Sessions that join and leave at any time get what a full recompute gives, one forward a step."""

import asyncio
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from reward_svc.model import PersRM, load_pers_rm
from reward_svc.prompts import Reference, RewardContext
from svc_common.preference_prompt import ChatMessage
from tests.reward_svc.oracle import Oracle
from tests.reward_svc.replica import (
    BRIEF,
    CHAT,
    TOLERANCE,
    Generator,
    candidate_rows,
    commit_rows,
    context,
    random_candidates,
    rewards_of,
    running_replica,
    save_folders,
)
from tests.tiny_model import VOCABULARY_SIZE

CONTEXTS = [
    BRIEF,
    context(("Be brief.", 0.5), ("Be kind.", 2.0), ("Use metaphors.", 1.0)),
    context(("Be brief.", 1.5), reference=Reference.BASE),
    context(("Be kind.", 1.0), ("Be brief.", 0.2), prompt="Once upon a time"),
    context(
        ("Rhyme.", 1.0),
        prompt=(ChatMessage("system", "You are a poet."), *CHAT, ChatMessage("assistant", "No.")),
    ),
]


@dataclass
class LiveSession:
    what: RewardContext
    written: list[int]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma"])
async def test_sessions_that_join_and_leave_at_random_get_what_a_full_recompute_gives(
    architecture: str, tmp_path: object
) -> None:
    model = load_pers_rm(save_folders(tmp_path, architecture))  # type: ignore[arg-type]
    oracle = Oracle.of(architecture)
    rng = np.random.default_rng(5)
    num_compared = 0
    async with running_replica(model, num_slots=9) as replica:
        generator = replica.generator()
        live: dict[int, LiveSession] = {}
        for number in range(40):
            what = CONTEXTS[int(rng.integers(len(CONTEXTS)))]
            rows = len(what.preferences) + (what.reference is Reference.BACKBONE)
            if replica.batcher.load.num_free_slots >= rows and rng.random() < 0.6:
                written = rng.integers(VOCABULARY_SIZE, size=int(rng.integers(0, 20))).tolist()
                await generator.open(number, what, written)
                live[number] = LiveSession(what, written)
            elif live and rng.random() < 0.3:
                leaving = int(rng.choice(list(live)))
                await generator.close(leaving)
                await replica.settle()
                del live[leaving]
            num_compared += await step_and_compare(generator, oracle, live, rng)
    assert num_compared > 60


async def step_and_compare(
    generator: Generator, oracle: Oracle, live: dict[int, LiveSession], rng: np.random.Generator
) -> int:
    """Score all sessions, compare each with the oracle, commit its best candidate."""
    asked = [(n, len(s.written), random_candidates(rng)) for n, s in live.items()]
    if not asked:
        return 0
    rewards = await generator.score(*asked)
    for (number, _, candidates), mine in zip(asked, rewards, strict=True):
        session = live[number]
        assert isinstance(mine, torch.Tensor), mine
        theirs = oracle.rewards(session.what, session.written, candidates)
        torch.testing.assert_close(mine, theirs, **TOLERANCE)
        assert int(mine.argmax()) == int(theirs.argmax())
        session.written.append(candidates[int(mine.argmax())])
    await generator.commit(*((n, len(s.written) - 1, s.written[-1]) for n, s in live.items()))
    return len(asked)


async def test_a_session_rebuilt_from_its_tokens_gives_the_same_rewards(model: PersRM) -> None:
    candidates = [7, 99, 30, 140]
    tokens = [10, 77, 200, 31]
    async with running_replica(model) as replica:
        first, second = replica.generator(), replica.generator()
        await first.open(1, CONTEXTS[1])
        for step, token in enumerate(tokens):
            await first.commit((1, step, token))
        (grown,) = await first.score((1, len(tokens), candidates))
        await second.open(1, CONTEXTS[1], tokens, epoch=1)
        (rebuilt,) = await second.score((1, len(tokens), candidates), epoch=1)
        torch.testing.assert_close(grown, rebuilt, **TOLERANCE)


async def test_a_committed_step_costs_one_forward_whatever_the_rows_and_sessions(
    model: PersRM,
) -> None:
    async with running_replica(model) as replica:
        generators = [replica.generator(), replica.generator()]
        for generator in generators:
            for number, what in enumerate(CONTEXTS[:3]):
                await generator.open(number, what)
        for step in range(4):
            before = replica.cache.runner.num_forwards
            held = replica.batcher.intake  # both messages arrive before the loop runs
            for generator in generators:
                await generator.commit(*((number, step, 50 + step) for number in range(3)))
            assert not held.is_empty
            for generator in generators:
                await generator.score(*((number, step + 1, [5, 6, 7]) for number in range(3)))
            assert replica.cache.runner.num_forwards == before + 1
        assert replica.sample("pad_step_batch_rows_count") == 4
        assert replica.sample("pad_step_batch_rows_sum") == 4 * 2 * (2 + 4 + 1)


async def test_the_forward_of_a_commit_begins_before_its_candidates_arrive(model: PersRM) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        await generator.open(1, BRIEF)
        loop, has_begun = asyncio.get_running_loop(), asyncio.Event()
        commit = replica.cache.commit

        def watched(*args: object) -> None:
            loop.call_soon_threadsafe(has_begun.set)
            commit(*args)  # type: ignore[arg-type]

        replica.cache.commit = watched  # type: ignore[method-assign]
        await generator.commit((1, 0, 42))
        await has_begun.wait()  # nothing was asked yet
        (rewards,) = await generator.score((1, 1, [3, 4]))
        assert isinstance(rewards, torch.Tensor)


async def test_all_that_one_message_holds_is_carried_out_in_the_order_of_its_fields(
    model: PersRM, oracle: Oracle
) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        await generator.open(1, CONTEXTS[1])
        await generator.send(
            closes=(1,),
            openings=(generator.opening(1, BRIEF),),  # the number is free again: closes come first
            commits=commit_rows((1, 0, 42), (1, 1, 43)),
            candidates=candidate_rows(8, (1, 2, [3, 4, 5])),
        )
        assert (await generator.next_answer()).opened
        scored = (await generator.next_answer()).scored
        assert scored is not None
        expected = oracle.rewards(BRIEF, [42, 43], [3, 4, 5])
        torch.testing.assert_close(rewards_of(scored)[1, 2], expected, **TOLERANCE)
