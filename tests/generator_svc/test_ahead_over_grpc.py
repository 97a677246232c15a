"""Running ahead against real reward services over gRPC: no token differs, nothing is sent twice."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from generator_svc.decoding.candidates import Candidates
from generator_svc.decoding.strategies import Reference
from generator_svc.engine.engine import Engine
from generator_svc.engine.prompt_reader import PromptReader
from generator_svc.engine.run_ahead import RunAhead
from generator_svc.engine.scheduler import Scheduler
from generator_svc.engine.scorer import RewardSession, ScoreRows, SessionState
from generator_svc.engine.sequence import FinishReason, GenerationParams
from generator_svc.engine.step_model import StepModel
from generator_svc.reward_client.limits import PoolLimits
from generator_svc.reward_client.pool import RewardPool
from reward_svc.messages import Message
from reward_svc.model import PersRM, load_pers_rm
from reward_svc.stream import Stream
from svc_common.lm.head import Head
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.prefill_pace import PrefillPace
from svc_common.lm.prefix_cache import PrefixCache
from svc_common.lm.runner import SlotRunner
from svc_common.lm.transformers_forward import TransformersForward
from tests.generator_svc.silent_observer import SilentObserver
from tests.generator_svc.test_engine import (
    CONTEXT_LENGTH,
    NEVER,
    AlwaysAhead,
    Harness,
    QuietObserver,
    context,
    guided,
    ids,
)
from tests.generator_svc.test_reward_pool import Listener
from tests.reward_svc.replica import save_folders
from tests.reward_svc.service import Service, running_service
from tests.tiny_model import tiny_model

LIMITS = PoolLimits(step_timeout_s=20.0, open_timeout_s=30.0, resolve_interval_s=0.2)
Job = tuple[str, GenerationParams, tuple[str, ...]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PersRM:
    return load_pers_rm(save_folders(tmp_path_factory.mktemp("reward_model")))


@dataclass
class Stack:
    """An engine, its pool and its reward services; `messages` are all that the services got."""

    harness: Harness
    pool: RewardPool
    services: list[Service]
    listener: Listener
    messages: list[Message]

    async def write(self, jobs: list[Job]) -> list[list[int]]:
        answers = await asyncio.gather(*(self.harness.write(*job) for job in jobs))
        return [ids(answer) for answer in answers]

    async def is_free(self) -> None:
        """Return when no session is left on any service."""
        async with asyncio.timeout(20):
            for service in self.services:
                while await service.free_slots() != 16:
                    pass


def watch(service: Service, messages: list[Message], *, ignores_guesses: bool) -> None:
    """Note what a service is sent; one of before there were guesses does not see them."""
    intake = service.replica.batcher.intake
    submit = intake.submit

    async def watched(stream: Stream, message: Message) -> None:
        messages.append(message)
        await submit(stream, replace(message, tentative=None) if ignores_guesses else message)

    intake.submit = watched  # type: ignore[method-assign]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - several parts would have to tell
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running_stack(
    model: PersRM,
    run_ahead: RunAhead,
    *,
    num_services: int = 1,
    num_slots: int = 4,
    ignores_guesses: bool = False,
) -> AsyncIterator[Stack]:
    async with AsyncExitStack() as stack:
        services = [
            await stack.enter_async_context(running_service(model)) for _ in range(num_services)
        ]
        messages: list[Message] = []
        for service in services:
            watch(service, messages, ignores_guesses=ignores_guesses)
        listener = Listener()
        targets = tuple(service.address for service in services)
        pool = RewardPool(targets, model.tokenizer.fingerprint, LIMITS, listener)
        base, thread, observer = tiny_model(seed=1), ModelThread(1), QuietObserver()
        runner = SlotRunner(
            TransformersForward(base.base_model), num_slots=num_slots, context_length=CONTEXT_LENGTH
        )
        prompts = PromptReader(
            runner, PrefillPace(16, max_s=60.0), PrefixCache(1 << 20), SilentObserver()
        )
        step_model = StepModel(runner, Head(base), prompts)
        scheduler = Scheduler(num_slots=num_slots, max_waiting=64)
        engine = Engine(step_model, thread, scheduler, pool, observer, run_ahead)
        tasks = [asyncio.create_task(its) for its in (pool.run(), engine.run())]
        try:
            async with asyncio.timeout(120):
                await until(
                    lambda: sum(r.is_available for r in pool.fleet.replicas) >= num_services
                )
                harness = Harness(engine, pool, runner, observer)  # type: ignore[arg-type]
                yield Stack(harness, pool, services, listener, messages)
        finally:
            for task in reversed(tasks):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            thread.close()


def mixed_jobs() -> list[Job]:
    """Users of several strengths, K, references, seeds, lengths and ends."""
    jobs: list[Job] = [
        (f"hello {i}", guided(f"hello {i}", f"wish {i}", beta=0.1 + 0.2 * i, top_k=4 + 3 * i), ())
        for i in range(3)
    ]
    jobs += [
        (
            f"more {i}",
            guided(
                f"more {i}",
                "wish",
                beta=0.2,
                temperature=1.0,
                top_p=0.95,
                seed=i,
                top_k=3 + i,
                max_tokens=5 + 4 * i,
                reference=list(Reference)[i % 2],
            ),
            (),
        )
        for i in range(4)
    ]
    ending = guided("ends", "wish", temperature=3.0, top_k=100, seed=2, ignores_end_of_turn=False)
    return [*jobs, ("ends", ending, ())]


async def test_forced_guesses_change_no_token_of_any_user(model: PersRM) -> None:
    jobs = mixed_jobs()
    async with running_stack(model, NEVER) as stack:
        whole = await stack.harness.write(*jobs[0])
        stop = "".join(token.text for token in whole)[4:7]
        jobs.append((jobs[0][0], jobs[0][1], (stop,)))
        apart = await stack.write(jobs)
        await stack.is_free()
    async with running_stack(model, AlwaysAhead(is_allowed=True)) as stack:
        together = await stack.write(jobs)
        await stack.is_free()
        assert stack.listener.failovers == 0
        assert stack.harness.observer.num_kept > 10
        assert stack.harness.observer.num_redone > 10
        stopped = await stack.harness.write(*jobs[-1])
        assert stopped[-1].finish_reason is FinishReason.STOP_STRING
    assert together == apart


async def test_a_token_that_was_guessed_right_is_sent_once(model: PersRM) -> None:
    params = guided("hello", "wish", beta=0.3, max_tokens=24)
    async with running_stack(model, AlwaysAhead(is_allowed=True)) as stack:
        (answer,) = await stack.write([("hello", params, ())])
        rows: list[list[tuple[int, int]]] = [[], []]
        for message in stack.messages:
            for found, part in zip(rows, (message.commits, message.tentative), strict=True):
                if part is not None:
                    found += zip(part.steps, part.token_ids, strict=True)
        commits, guesses = rows
        right = [(step, token) for step, token in guesses if answer[step] == token]
        assert right
        assert len(commits) + len(right) == len(set(commits) | set(right)) == len(answer) - 1
        assert not set(commits) & set(guesses)


async def test_the_last_tokens_before_a_full_reward_context_end_the_answer_cleanly(
    model: PersRM,
) -> None:
    """A guess past it would be refused, and the session given up for good."""
    text = "c" * 60
    jobs: list[Job] = [
        (text, guided(text, "wish", beta=0.3, max_tokens=200), ()),
        ("short", guided("short", "wish", beta=0.3, max_tokens=40), ()),
    ]
    answers = []
    for run_ahead in (NEVER, AlwaysAhead(is_allowed=True)):
        async with running_stack(model, run_ahead) as stack:
            answers.append(await stack.write(jobs))
            assert stack.listener.failovers == 0
    assert answers[0] == answers[1]
    assert len(answers[0][0]) < 200


async def test_a_service_lost_while_guesses_are_out_changes_no_token(model: PersRM) -> None:
    jobs = [(text, replace(params, max_tokens=30), stop) for text, params, stop in mixed_jobs()[:5]]
    async with running_stack(model, NEVER) as stack:
        apart = await stack.write(jobs)
    async with running_stack(model, AlwaysAhead(is_allowed=True), num_services=2) as stack:
        first = stack.services[0].replica.batcher.intake
        submit, num_guesses = first.submit, 0

        async def losing(stream: Stream, message: Message) -> None:
            nonlocal num_guesses
            num_guesses += message.tentative is not None
            if num_guesses and num_guesses % 5 == 0 and message.tentative is not None:
                raise RuntimeError("the stream is lost with the guesses in it")
            await submit(stream, message)

        first.submit = losing  # type: ignore[method-assign]
        together = await stack.write(jobs)
        assert stack.listener.failovers > 0
        await stack.is_free()
    assert together == apart


async def test_a_service_that_knows_no_guesses_costs_time_and_neither_tokens_nor_rows(
    model: PersRM,
) -> None:
    """Once each row that it refused stayed open there, until it had none left."""
    jobs = [(f"hi {i}", guided(f"hi {i}", "wish", beta=0.2, max_tokens=24), ()) for i in range(2)]
    async with running_stack(model, NEVER) as stack:
        apart = await stack.write(jobs)
    ahead = AlwaysAhead(is_allowed=True)
    async with running_stack(model, ahead, ignores_guesses=True) as stack:
        assert await stack.write(jobs) == apart
        assert stack.listener.failovers > 0
        await stack.is_free()


async def test_a_guess_that_came_with_a_late_question_is_taken_back_or_kept_right(
    model: PersRM,
) -> None:
    async with running_stack(model, NEVER) as stack:
        tokens: list[int] = []
        session = RewardSession(context("hi", "wish"), tokens, lambda: None)
        stack.pool.open(session)
        await until(lambda: session.state is SessionState.OPEN)
        candidates = Candidates(torch.tensor([[7, 99, 30]]), torch.zeros(1, 3))
        (replica,) = stack.pool.fleet.replicas
        receive: Any = replica.receive
        kept: list[Any] = []
        replica.receive = kept.append  # type: ignore[method-assign, assignment]
        rows = ScoreRows([session], candidates, [3], [42])
        assert (await stack.pool.score(rows)).has_rewards == [False]
        assert session.is_scoring
        await until(lambda: bool(kept))
        replica.receive = receive  # type: ignore[method-assign]
        for response in kept:
            receive(response)
        late = await stack.pool.score(rows)
        assert late.has_rewards == [True]
        for token in (42, 43):  # it was right, then it is wrong
            session.num_committed = 0
            tokens[:] = [token]
            stack.pool.commit([session])
            mine = await stack.pool.score(ScoreRows([session], candidates, [3]))
            fresh = RewardSession(context("hi", "wish"), [token], lambda: None)
            stack.pool.open(fresh)
            await until(lambda its=fresh: its.state is SessionState.OPEN)
            theirs = await stack.pool.score(ScoreRows([fresh], candidates, [3]))
            torch.testing.assert_close(mine.rewards, theirs.rewards, rtol=1e-4, atol=1e-4)
