"""The engine writes what a naive loop writes, whoever else is being written for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import pytest
import torch

from generator_svc.decoding.strategies import Reference
from generator_svc.engine.engine import Engine
from generator_svc.engine.observer import EngineObserver
from generator_svc.engine.prompt_reader import PromptReader
from generator_svc.engine.run_ahead import RunAhead
from generator_svc.engine.scheduler import Scheduler
from generator_svc.engine.scorer import EncodedPreference, RewardContext
from generator_svc.engine.sequence import ChosenToken, FinishReason, GenerationParams, Sequence
from generator_svc.engine.step_model import StepModel
from svc_common.errors import (
    InvalidRequestError,
    OverloadedError,
    RewardUnavailableError,
    ShuttingDownError,
)
from svc_common.lm.head import Head
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.networks import make_network
from svc_common.lm.prefill_pace import PrefillPace
from svc_common.lm.prefix_cache import PrefixCache
from svc_common.lm.runner import SlotRunner
from svc_common.lm.tokenizer import TextStream, Tokenizer
from svc_common.preference_prompt import ChatMessage
from tests.generator_svc.fake_scorer import NaiveScorer
from tests.generator_svc.silent_observer import SilentObserver
from tests.tiny_model import CONTROL_TOKENS, tiny_model, tiny_tokenizer

END = CONTROL_TOKENS.index("<|end|>")
TOKENIZER = Tokenizer(tiny_tokenizer(), frozenset({END}))
CONTEXT_LENGTH = 256
BASE = GenerationParams(
    beta=1.0, top_k=10, temperature=0.0, top_p=1.0, seed=0, max_tokens=12, ignores_end_of_turn=True
)


class AlwaysAhead(RunAhead):
    """Runs ahead whether it pays or not."""

    def pays(self, num_rows: int) -> bool:
        return True


NEVER = RunAhead(is_allowed=False)


class QuietObserver:
    """Notes nothing but how guesses fared, and how long answers outlived their readers."""

    def __init__(self) -> None:
        self.num_kept = self.num_redone = 0
        self.left_behind: list[tuple[str, int]] = []

    def phase(self, name: str, seconds: float) -> None:
        pass

    def batch(self, num_rows: int) -> None:
        pass

    def ran_ahead(self, *, num_kept: int, num_redone: int) -> None:
        self.num_kept += num_kept
        self.num_redone += num_redone

    def load(self, *, num_active: int, num_waiting: int, num_free_slots: int) -> None:
        pass

    def settle(self) -> None:
        pass

    def started(self, sequence: Sequence) -> None:
        pass

    def left(self, phase: str, num_steps: int) -> None:
        self.left_behind.append((phase, num_steps))

    def token(self, token: ChosenToken, sequence: Sequence, since_last_s: float | None) -> None:
        pass


@dataclass
class Harness:
    engine: Engine
    scorer: NaiveScorer
    runner: SlotRunner
    observer: "QuietObserver"

    def sequence(self, text: str, params: GenerationParams, stop: tuple[str, ...] = ()) -> Sequence:
        prompt = (ChatMessage("user", text),)
        return Sequence(
            request_id=text,
            prompt_ids=TOKENIZER.encode_prompt(prompt),
            params=params,
            text=TextStream(TOKENIZER, stop),
            end_of_turn_ids=TOKENIZER.end_of_turn_ids,
        )

    async def write(
        self, text: str, params: GenerationParams = BASE, stop: tuple[str, ...] = ()
    ) -> list[ChosenToken]:
        sequence = self.sequence(text, params, stop)
        self.engine.submit(sequence)
        return [token async for token in sequence.tokens()]


@asynccontextmanager
async def running_engine(
    *,
    num_slots: int = 8,
    max_waiting: int = 64,
    prefill_chunk: int = 16,
    run_ahead: RunAhead = NEVER,
    told: EngineObserver | None = None,
    is_lean: bool = False,
) -> AsyncIterator[Harness]:
    base = tiny_model(seed=1)
    network = make_network(base.base_model, CONTEXT_LENGTH, "lean" if is_lean else "transformers")
    scorer = NaiveScorer(tiny_model(seed=2), tiny_model(seed=3), TOKENIZER)
    runner = network.new_runner(num_slots)
    observer = QuietObserver()
    thread = ModelThread(1)
    scheduler = Scheduler(num_slots=num_slots, max_waiting=max_waiting)
    pace = PrefillPace(prefill_chunk, max_s=60.0)
    prompts = PromptReader(runner, pace, PrefixCache(1 << 20), SilentObserver())
    model = StepModel(runner, Head(base), prompts)
    engine = Engine(model, thread, scheduler, scorer, told or observer, run_ahead)
    loop = asyncio.create_task(engine.run())
    try:
        yield Harness(engine, scorer, runner, observer)
    finally:
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop
        thread.close()


def context(text: str, preference: str, reference: Reference = Reference.BACKBONE) -> RewardContext:
    encoded = (EncodedPreference(preference, 1.0), EncodedPreference("Be kind.", 0.5))
    return RewardContext((ChatMessage("user", text),), encoded, reference)


def guided(text: str, preference: str, **changes: object) -> GenerationParams:
    reference = changes.pop("reference", Reference.BACKBONE)
    assert isinstance(reference, Reference)
    params = replace(BASE, reward_context=context(text, preference, reference))
    return replace(params, **changes)  # type: ignore[arg-type]


def ids(tokens: list[ChosenToken]) -> list[int]:
    return [token.token_id for token in tokens]


@torch.inference_mode()
def naive_greedy(text: str, num_tokens: int) -> list[int]:
    base = tiny_model(seed=1)
    token_ids = TOKENIZER.encode_prompt((ChatMessage("user", text),))
    start = len(token_ids)
    for _ in range(num_tokens):
        logits = base(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0, -1]
        token_ids.append(int(logits.argmax()))
    return token_ids[start:]


async def test_without_rewards_it_writes_what_a_naive_greedy_loop_writes() -> None:
    async with running_engine() as harness:
        texts = [f"prompt number {i}" + "!" * i for i in range(6)]
        answers = await asyncio.gather(*(harness.write(text) for text in texts))
        for text, answer in zip(texts, answers, strict=True):
            assert ids(answer) == naive_greedy(text, BASE.max_tokens)
            assert not any(token.is_guided or token.is_changed for token in answer)


@pytest.mark.parametrize("is_lean", [False, True])
@pytest.mark.parametrize("reference", list(Reference))
async def test_mixed_users_in_one_batch_get_what_each_gets_alone(
    reference: Reference, is_lean: bool
) -> None:
    jobs = [
        (f"hello {i}", guided(f"hello {i}", f"wish {i}", beta=0.5 * (i % 4), reference=reference))
        for i in range(8)
    ]
    jobs += [(f"other {i}", replace(BASE, temperature=0.9, seed=i)) for i in range(4)]
    jobs += [
        (f"more {i}", guided(f"more {i}", "wish", temperature=1.0, top_p=0.9, seed=i, top_k=3 + i))
        for i in range(4)
    ]
    async with running_engine(num_slots=5, is_lean=is_lean) as harness:
        together = await asyncio.gather(*(harness.write(*job) for job in jobs))
    alone = []
    for job in jobs:
        async with running_engine(num_slots=1, is_lean=is_lean) as harness:
            alone.append(await harness.write(*job))
    assert [ids(answer) for answer in together] == [ids(answer) for answer in alone]
    changed = [token.is_changed for answer in together for token in answer]
    assert any(changed)
    assert not all(changed)


@pytest.mark.parametrize("reference", list(Reference))
@pytest.mark.parametrize("num_slots", [1, 5])
async def test_running_ahead_changes_nothing_but_time(reference: Reference, num_slots: int) -> None:
    jobs = [
        (f"hello {i}", guided(f"hello {i}", "wish", beta=0.1 + 0.2 * i, reference=reference))
        for i in range(4)
    ]
    jobs += [
        (f"more {i}", guided(f"more {i}", "wish", beta=0.3, temperature=1.0, seed=i, top_k=3 + i))
        for i in range(3)
    ]
    ending = replace(jobs[0][1], ignores_end_of_turn=False, temperature=3.0, top_k=100, seed=2)
    jobs += [("ends", ending), ("plain", BASE)]
    async with running_engine(num_slots=num_slots) as harness:
        apart = await asyncio.gather(*(harness.write(*job) for job in jobs))
    ahead = AlwaysAhead(is_allowed=True)
    async with running_engine(num_slots=num_slots, run_ahead=ahead) as harness:
        together = await asyncio.gather(*(harness.write(*job) for job in jobs))
        assert harness.observer.num_kept > 10
        assert harness.observer.num_redone > 10
        assert harness.runner.num_free == num_slots or not harness.scorer.committed
    assert [ids(answer) for answer in together] == [ids(answer) for answer in apart]
    assert [t.is_guided for a in together for t in a] == [t.is_guided for a in apart for t in a]


async def test_a_session_lost_while_running_ahead_goes_on_with_the_same_tokens() -> None:
    params = guided("tell me", "be short")
    async with running_engine() as harness:
        fault_free = await harness.write("tell me", params)
    async with running_engine(run_ahead=AlwaysAhead(is_allowed=True)) as harness:
        harness.scorer.loses_after = 5
        assert ids(await harness.write("tell me", params)) == ids(fault_free)
        assert harness.scorer.loses_after is None


async def test_each_step_costs_one_forward_and_one_score_message_for_all_rows() -> None:
    async with running_engine() as harness:
        params = [guided("same", f"wish {i}") for i in range(4)]
        await asyncio.gather(*(harness.write("same", p) for p in params))
        num_prefills = 4 * -(-len(TOKENIZER.encode_prompt((ChatMessage("user", "same"),))) // 16)
        # Four answers that start a few steps apart.
        assert harness.runner.num_forwards <= num_prefills + BASE.max_tokens + num_prefills
        assert harness.scorer.num_messages <= BASE.max_tokens + num_prefills


async def test_a_lost_session_is_opened_again_and_the_answer_is_the_same() -> None:
    params = guided("tell me", "be short")
    async with running_engine() as harness:
        fault_free = await harness.write("tell me", params)
    async with running_engine() as harness:
        harness.scorer.loses_after = 5
        answer = await harness.write("tell me", params)
        assert ids(answer) == ids(fault_free)
        assert all(token.is_guided for token in answer)
        assert harness.scorer.loses_after is None


async def test_without_a_reward_service_the_answer_fails_or_falls_back_as_it_was_asked() -> None:
    params = guided("tell me", "be short")
    async with running_engine() as harness:
        harness.scorer.is_available = False
        with pytest.raises(RewardUnavailableError, match="away"):
            await harness.write("tell me", params)
        answer = await harness.write("tell me", replace(params, falls_back=True))
        assert ids(answer) == naive_greedy("tell me", BASE.max_tokens)
        assert not any(token.is_guided for token in answer)


async def test_an_answer_returns_to_guidance_when_rewards_come_back() -> None:
    params = guided("tell me", "be short", falls_back=True)
    async with running_engine() as harness:
        harness.scorer.is_available = False
        sequence = harness.sequence("tell me", params)
        harness.engine.submit(sequence)
        tokens = []
        async for token in sequence.tokens():
            tokens.append(token)
            harness.scorer.is_available |= len(tokens) == 4
        assert not tokens[0].is_guided
        assert tokens[-1].is_guided


async def test_what_the_reward_service_refuses_for_good_is_an_error_for_any_policy() -> None:
    """Once such an answer was opened again for ever and wrote nothing."""
    async with running_engine() as harness:
        harness.scorer.refuses = True
        harness.scorer.refusal = InvalidRequestError("context: too long")
        with pytest.raises(InvalidRequestError, match="too long"):
            await harness.write("tell me", guided("tell me", "be short", falls_back=True))


async def test_answers_whose_rewards_are_late_do_not_hold_up_the_others() -> None:
    async with running_engine() as harness:
        late = harness.sequence("late", guided("late", "wish"))
        harness.engine.submit(late)
        stream = late.tokens()
        await anext(stream)
        assert late.session is not None
        harness.scorer.late.add(late.session)
        await harness.write("other", guided("other", "wish"))
        num_written = len(late.token_ids)
        assert num_written < BASE.max_tokens
        harness.scorer.late.clear()
        late.session.is_scoring = False
        late.session.on_change()
        assert len([token async for token in stream]) == BASE.max_tokens - 1


async def test_a_cancelled_answer_frees_its_row_and_its_session() -> None:
    async with running_engine(num_slots=2) as harness:
        sequence = harness.sequence("x", guided("x", "wish", max_tokens=100))
        harness.engine.submit(sequence)
        stream = sequence.tokens()
        await anext(stream)
        harness.engine.cancel(sequence)
        await harness.write("y")  # a step later
        await harness.write("z")
        assert harness.observer.left_behind == [("tokens", 1)]
        assert not harness.scorer.committed
        assert harness.runner.num_free >= 1
        tokens = await asyncio.gather(*(harness.write(str(i)) for i in range(4)))
        assert all(len(answer) == BASE.max_tokens for answer in tokens)


async def test_answers_end_by_end_of_turn_stop_string_length_and_full_context() -> None:
    async with running_engine() as harness:
        plain = await harness.write("end", replace(BASE, max_tokens=40))
        text = "".join(token.text for token in plain)
        stop = text[5:7]
        stopped = await harness.write("end", replace(BASE, max_tokens=40), (stop,))
        assert stopped[-1].finish_reason is FinishReason.STOP_STRING
        assert "".join(token.text for token in stopped) == text[: text.index(stop)]
        assert plain[-1].finish_reason is FinishReason.LENGTH
        long = await harness.write("c" * (CONTEXT_LENGTH - 10), replace(BASE, max_tokens=100))
        assert long[-1].finish_reason is FinishReason.LENGTH
        assert len(long) < 10
        ending = replace(
            BASE, ignores_end_of_turn=False, temperature=5.0, top_k=200, max_tokens=200
        )
        answers = [await harness.write("e", replace(ending, seed=s)) for s in range(6)]
        ends = [a for a in answers if a[-1].finish_reason is FinishReason.END_OF_TURN]
        assert ends
        assert all(ids(answer).index(END) == len(answer) - 1 for answer in ends)


async def test_an_answer_ends_when_the_reward_models_context_is_full() -> None:
    async with running_engine() as harness:
        harness.scorer.max_answer_tokens = 5
        answer = await harness.write("long", guided("long", "wish"))
        assert len(answer) == 5
        assert answer[-1].finish_reason is FinishReason.LENGTH


async def test_a_full_queue_refuses_at_once() -> None:
    async with running_engine(num_slots=1, max_waiting=1) as harness:
        first = harness.sequence("a", replace(BASE, max_tokens=100))
        harness.engine.submit(first)
        await anext(first.tokens())
        harness.engine.submit(harness.sequence("b", BASE))
        with pytest.raises(OverloadedError):
            harness.engine.submit(harness.sequence("c", BASE))


async def test_a_stopping_engine_tells_every_reader() -> None:
    async with running_engine(num_slots=1) as harness:
        running, waiting = (
            harness.sequence("a", replace(BASE, max_tokens=200)),
            harness.sequence("b", BASE),
        )
        harness.engine.submit(running)
        harness.engine.submit(waiting)
        await anext(running.tokens())
    for sequence in (running, waiting):
        with pytest.raises(ShuttingDownError):
            async for _ in sequence.tokens():
                pass


class Booked(QuietObserver):
    """Notes the phases that were told, and which of them by the last `settle`."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.settled: list[str] = []

    def phase(self, name: str, seconds: float) -> None:
        self.told.append(name)

    def settle(self) -> None:
        self.settled = list(self.told)


async def test_what_was_told_of_an_answer_is_settled_when_its_reader_has_its_end() -> None:
    observer = Booked()
    async with running_engine(told=observer) as harness:
        await harness.write("Hello", guided("Hello", "Be brief.", max_tokens=4))
        assert observer.settled == observer.told
    counts = {name: observer.told.count(name) for name in observer.told}
    assert counts == {
        "generator_prefill": 1,
        "generator_forward": 3,
        "reward_wait": 4,
        "select": 4,
        "emit": 4,
    }
