"""Running ahead over a real reward service changes nothing but time."""

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from generator_svc.decoding.strategies import Reference
from generator_svc.engine.sequence import ChosenToken, FinishReason, GenerationParams
from pad.v1 import reward_pb2
from reward_svc.model import PersRM, load_pers_rm
from tests.generator_svc.reward_stack import Stack, running_stack, until
from tests.generator_svc.test_engine import NEVER, AlwaysAhead, guided, ids
from tests.reward_svc.replica import save_folders

AHEAD = AlwaysAhead(is_allowed=True)
Job = tuple[str, GenerationParams, tuple[str, ...]]


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> PersRM:
    folder: Path = tmp_path_factory.mktemp("reward_model")
    return load_pers_rm(save_folders(folder))


def jobs_of(reference: Reference) -> list[Job]:
    """Return what several users ask for: each differs from the others in what it can."""
    jobs: list[Job] = []
    for i in range(4):
        params = guided(f"hello {i}", f"wish {i}", beta=0.1 + 0.3 * i, reference=reference)
        jobs.append((f"hello {i}", replace(params, top_k=2 + 4 * i, max_tokens=5 + 6 * i), ()))
    for i in range(4):
        params = guided(f"more {i}", "be odd", beta=0.2 * (1 + i), reference=reference)
        sampled = replace(params, temperature=0.5 + 0.4 * i, top_p=1 - 0.1 * i, seed=i)
        jobs.append((f"more {i}", replace(sampled, top_k=3 + 9 * i, max_tokens=24), ()))
    wild = guided("ends", "soon", beta=0.3, reference=reference, temperature=3.0, top_k=100)
    for seed in range(3):
        ending = replace(wild, seed=seed, max_tokens=60, ignores_end_of_turn=False)
        jobs.append(("ends", ending, ()))
    jobs.append(("one", guided("one", "token", max_tokens=1, reference=reference), ()))
    return jobs


async def write_all(stack: Stack, jobs: list[Job]) -> list[list[ChosenToken]]:
    return await asyncio.gather(*(stack.write(*job) for job in jobs))


def rows_of(rows: reward_pb2.CommitRows) -> list[tuple[int, ...]]:
    """Return (session, step, token id) of each row."""
    fields = (rows.sessions, rows.steps, rows.token_ids)
    columns = [np.frombuffer(data, "<u4").tolist() for data in fields]
    return list(zip(*columns, strict=True))


def assert_same(answers: list[list[ChosenToken]], expected: list[list[ChosenToken]]) -> None:
    assert [ids(answer) for answer in answers] == [ids(answer) for answer in expected]
    for answer, its in zip(answers, expected, strict=True):
        assert [token.text for token in answer] == [token.text for token in its]
        assert [token.is_guided for token in answer] == [token.is_guided for token in its]
        assert answer[-1].finish_reason is its[-1].finish_reason
        mine, theirs = ([token.reward for token in tokens] for tokens in (answer, its))
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("reference", list(Reference))
@pytest.mark.parametrize("num_slots", [3, 16])
async def test_mixed_users_get_the_same_answers_with_and_without_running_ahead(
    reward_model: PersRM, reference: Reference, num_slots: int
) -> None:
    jobs = jobs_of(reference)
    async with running_stack([reward_model], NEVER, num_slots=num_slots) as stack:
        expected = await write_all(stack, jobs)
        assert not any(m.HasField("tentative_commits") for m in stack.sent)
        text = "".join(token.text for token in expected[4])
        jobs.append((*jobs[4][:2], (text[8:10],)))
        expected.append(await stack.write(*jobs[-1]))
        assert expected[-1][-1].finish_reason is FinishReason.STOP_STRING
    async with running_stack([reward_model], AHEAD, num_slots=num_slots) as stack:
        answers = await write_all(stack, jobs)
        assert stack.observer.num_kept > 20
        assert stack.observer.num_redone > 20
        assert stack.pool_observer.num_failovers == 0
        await stack.all_free()
        assert stack.runner.num_free >= num_slots - 3 or stack.pool.num_sessions == 0
    assert_same(answers, expected)
    assert all(token.is_guided for answer in answers for token in answer)


async def test_a_guess_that_is_right_is_sent_once_and_a_wrong_one_replaced(
    reward_model: PersRM,
) -> None:
    params = guided("hello", "wish", beta=0.4, max_tokens=40)
    async with running_stack([reward_model], AHEAD) as stack:
        answer = await stack.write("hello", params)
        assert stack.observer.num_kept > 3
        assert stack.observer.num_redone > 3
        guesses = [row for m in stack.sent for row in rows_of(m.tentative_commits)]
        commits = [row for m in stack.sent for row in rows_of(m.commits)]
    is_changed = {step for step, token in enumerate(answer) if token.is_changed}
    last = len(answer) - 1  # never committed: nothing comes behind it
    assert [step for _, step, _ in guesses] == list(range(last))
    assert [token for *_, token in guesses] == [t.base_token_id for t in answer[:last]]
    assert [step for _, step, _ in commits] == sorted(is_changed - {last})
    assert [token for *_, token in commits] == [answer[s].token_id for _, s, _ in commits]


async def test_an_answer_that_fills_the_reward_models_context_ends_as_without_guesses(
    reward_model: PersRM,
) -> None:
    """The last guesses stand before the end of the context, and none behind it."""
    text = "x" * 80
    params = guided(text, "be brief, be kind", max_tokens=200, beta=0.3)
    other = guided("y", "wish", max_tokens=80, beta=0.3)
    jobs: list[Job] = [(text, params, ()), ("y", other, ())]
    async with running_stack([reward_model], NEVER) as stack:
        expected = await write_all(stack, jobs)
    assert len(expected[0]) < 100
    assert expected[0][-1].finish_reason is FinishReason.LENGTH
    async with running_stack([reward_model], AHEAD) as stack:
        assert_same(await write_all(stack, jobs), expected)
        assert stack.pool_observer.num_failovers == 0
        await stack.all_free()


async def test_sessions_lost_while_guesses_are_out_go_on_with_the_same_tokens(
    reward_model: PersRM,
) -> None:
    jobs: list[Job] = [
        (f"hi {i}", guided(f"hi {i}", "wish", beta=0.3, max_tokens=30), ()) for i in range(4)
    ]
    async with running_stack([reward_model], NEVER) as stack:
        expected = await write_all(stack, jobs)
    async with running_stack([reward_model, reward_model], AHEAD) as stack:
        links = stack.pool.fleet.replicas
        writing = asyncio.create_task(write_all(stack, jobs))
        num_lost = 0
        for _ in range(4):
            await until(lambda: writing.done() or any(link._pending for link in links), 0)
            for link in links:
                if link._pending:
                    link._give_up()  # as if it owed its answer for too long
                    num_lost += 1
                    break
            await asyncio.sleep(0.05)
        answers = await writing
        assert num_lost > 1
        assert stack.pool_observer.num_failovers > 1
        await stack.all_free()
    assert_same(answers, expected)


async def test_answers_cancelled_at_any_moment_leave_no_row_and_hurt_no_other(
    reward_model: PersRM,
) -> None:
    params = guided("stays", "wish", beta=0.3, max_tokens=60)
    async with running_stack([reward_model], NEVER) as stack:
        expected = await stack.write("stays", params)
    async with running_stack([reward_model], AHEAD) as stack:
        staying = asyncio.create_task(stack.write("stays", params))
        for i in range(12):
            leaving = stack.answer(f"leaves {i}", guided("leaves", f"wish {i}", max_tokens=100))
            stack.engine.submit(leaving)
            tokens = leaving.tokens()
            for _ in range(1 + i % 3):
                await anext(tokens)
            for _ in range(i):
                await asyncio.sleep(0)
            stack.engine.cancel(leaving)
        assert_same([await staying], [expected])
        await stack.all_free()
        assert stack.pool.num_sessions == 0


async def test_no_message_names_a_row_of_a_session_twice(reward_model: PersRM) -> None:
    jobs = jobs_of(Reference.BACKBONE)[:6]
    async with running_stack([reward_model], AHEAD, num_slots=4) as stack:
        await write_all(stack, jobs)
        for message in stack.sent:
            rows = [*rows_of(message.commits), *rows_of(message.tentative_commits)]
            steps = Counter((session, step) for session, step, _ in rows)
            assert max(steps.values(), default=0) <= 1
