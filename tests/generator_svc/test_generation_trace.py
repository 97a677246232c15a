"""What the span of an answer is told, whatever becomes of the answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from generator_svc import generation_trace
from generator_svc.access import METHOD_SCOPES
from generator_svc.deadline import Deadline
from generator_svc.generation import AnswerSummary, Generator
from generator_svc.generation_trace import TRACED_METHODS, GenerationTraces, TracedMetrics
from generator_svc.planning import Origin
from generator_svc.trace_attributes import GENERATION_ATTRIBUTES, STEP_ATTRIBUTES, STEP_EVENT
from pad.v1 import generator_pb2
from svc_common.trace_context import TraceContext
from svc_common.tracing import set_current_span
from tests.fake_tracer import FakeSpan
from tests.generator_svc.test_deadline_on_the_way import generator, request
from tests.generator_svc.test_engine import Harness, running_engine

SAMPLED = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "a=1")
UNSAMPLED = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")
UNGUIDED = generator_pb2.FALLBACK_POLICY_UNGUIDED


@dataclass(frozen=True)
class Traced:
    """An engine whose answers are traced."""

    harness: Harness
    generator: Generator
    traces: GenerationTraces

    async def ask(self, span: FakeSpan, deadline_s: float = 30.0, **fields: Any) -> AnswerSummary:
        set_current_span(span)
        checked = request(ignore_end_of_turn=True, **fields)
        deadline = Deadline.after(deadline_s)
        origin = Origin("r", "default", deadline, trace=self.traces.begin(checked))
        *_, summary = [event async for event in self.generator.answer(checked, origin)]
        assert isinstance(summary, AnswerSummary)
        assert self.traces.followed == {}
        return summary


@asynccontextmanager
async def traced(redis_url: str, step_ratio: float = 1.0) -> AsyncIterator[Traced]:
    traces = GenerationTraces("tiny", step_ratio)
    async with (
        running_engine(told=TracedMetrics(CollectorRegistry(), traces)) as harness,
        generator(harness, redis_url, model_version="") as its,
        asyncio.timeout(60),
    ):
        yield Traced(harness, its, traces)


async def test_a_guided_answer_tells_all_that_the_manual_names(redis_url: str) -> None:
    span = FakeSpan("rpc", SAMPLED, {"gen_ai.request.stream": True})
    async with traced(redis_url) as stack:
        summary = await stack.ask(span)
    told = span.attributes
    assert span.name == "chat tiny"
    assert set(told) == set(GENERATION_ATTRIBUTES)
    assert told["gen_ai.usage.input_tokens"] == summary.num_prompt_tokens
    assert told["gen_ai.usage.output_tokens"] == told["pad.guided_tokens"] == 3
    assert told["pad.changed_tokens"] == summary.num_changed_tokens
    assert told["pad.reward_model_version"] == "fake"
    assert told["gen_ai.response.finish_reasons"] == ("length",)
    assert [name for name, _ in span.events] == [STEP_EVENT] * 3
    assert all(set(attributes) == set(STEP_ATTRIBUTES) for _, attributes in span.events)


async def test_tokens_without_the_rewards_that_were_wanted_are_told(redis_url: str) -> None:
    span = FakeSpan("rpc", SAMPLED, {})
    async with traced(redis_url) as stack:
        stack.harness.scorer.refuses = True
        summary = await stack.ask(span, fallback=UNGUIDED)
    told = span.attributes
    assert told["pad.fallback_tokens"] == summary.num_fallback_tokens == 3
    assert told["pad.guided_tokens"] == told["pad.changed_tokens"] == 0
    assert [attributes["pad.guided"] for _, attributes in span.events] == [False] * 3


async def test_an_answer_that_nobody_reads_to_its_end_tells_how_far_it_came(
    redis_url: str,
) -> None:
    span = FakeSpan("rpc", SAMPLED, {})
    async with traced(redis_url) as stack:
        set_current_span(span)
        checked = request(ignore_end_of_turn=True)
        origin = Origin("r", "default", Deadline.after(30.0), trace=stack.traces.begin(checked))
        answer = stack.generator.answer(checked, origin)
        await anext(answer)
        await answer.aclose()
        assert stack.traces.followed == {}
    assert span.attributes["gen_ai.usage.output_tokens"] >= 1
    assert span.attributes["pad.forward_s"] >= 0
    assert "gen_ai.response.finish_reasons" not in span.attributes


async def test_more_steps_than_fit_are_counted(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_trace, "MAX_EVENTS", 2)
    span = FakeSpan("rpc", SAMPLED, {})
    async with traced(redis_url) as stack:
        await stack.ask(span)
    assert [attributes["pad.index"] for _, attributes in span.events] == [0, 1]
    assert span.attributes["pad.steps_left_out"] == 1


async def test_without_steps_there_is_no_event(redis_url: str) -> None:
    span = FakeSpan("rpc", SAMPLED, {})
    async with traced(redis_url, step_ratio=0.0) as stack:
        await stack.ask(span)
    assert span.events == []
    assert "pad.steps_left_out" not in span.attributes


async def test_samples_that_were_not_ranked_are_told_as_the_summary_has_them(
    redis_url: str,
) -> None:
    span = FakeSpan("rpc", SAMPLED, {})
    async with traced(redis_url) as stack:
        summary = await stack.ask(
            span,
            deadline_s=3.0,  # that nobody ranks is known a little before
            strategy=generator_pb2.STRATEGY_BEST_OF_N,
            num_samples=2,
            fallback=UNGUIDED,
        )
    told = span.attributes
    assert told["gen_ai.usage.output_tokens"] == summary.num_tokens == 3
    assert told["pad.fallback_tokens"] == summary.num_fallback_tokens
    assert len(span.events) == 6  # of both


@pytest.mark.parametrize("parent", [SAMPLED, UNSAMPLED])
async def test_the_trace_goes_on_to_the_rewards_sampled_or_not(
    redis_url: str, parent: TraceContext
) -> None:
    span = FakeSpan("rpc", parent, {})
    async with traced(redis_url) as stack:
        opened = []
        opens = stack.harness.scorer.open
        stack.harness.scorer.open = lambda session: (  # type: ignore[method-assign]
            opened.append(session.context.trace),
            opens(session),
        )[1]
        await stack.ask(span)
    assert opened == [parent]
    assert ("pad.beta" in span.attributes) == (parent is SAMPLED)


def test_all_methods_are_traced_but_those_that_ask_for_the_server() -> None:
    left_out = {"pad.v1.GeneratorService/GetServerInfo"}
    assert set(TRACED_METHODS) | left_out == set(METHOD_SCOPES)
    assert not set(TRACED_METHODS) & left_out
