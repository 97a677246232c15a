"""The span of a session: from its opening to its close, whatever closes it."""

from dataclasses import replace

import pytest

from reward_svc.access import METHOD_SCOPES
from reward_svc.messages import Reason, RowFault
from reward_svc.model import PersRM
from reward_svc.session_trace import (
    SESSION_ATTRIBUTES,
    SESSION_SPAN,
    TRACED_METHODS,
    SessionTraces,
)
from reward_svc.warm_up import warm_up
from svc_common.trace_context import TraceContext
from tests.fake_tracer import FakeTracer
from tests.reward_svc.replica import BRIEF, Generator, context, running_replica

SAMPLED = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "a=1")
UNSAMPLED = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")
TWO = context(("Be brief.", 0.5), ("Be kind.", 2.0))


async def open_traced(generator: Generator, number: int, what=BRIEF, *, epoch=0, trace=SAMPLED):
    opening = generator.opening(number, what, [70, 71], epoch)
    await generator.send(openings=(replace(opening, trace=trace),))
    return await generator.next_answer()


async def test_a_session_tells_what_was_done_for_it(model: PersRM) -> None:
    tracer = FakeTracer()
    async with running_replica(model, tracer=tracer, prefill_chunk=16) as replica:
        generator = replica.generator()
        opened = (await open_traced(generator, 1, TWO)).opened[0]
        other = (await open_traced(generator, 2)).opened[0]
        for step in range(2, 5):
            await generator.commit((1, step, 42), (2, step, 42))
            await generator.score((1, step + 1, [4, 5]))
        await generator.close(1)
        await replica.settle()
        span, still_open = tracer.spans
        assert (span.name, span.parent, span.is_error) == (SESSION_SPAN, SAMPLED, False)
        told = span.attributes
        assert {*told, "error.type"} == set(SESSION_ATTRIBUTES)
        assert told["gen_ai.request.model"] == model.model_id
        assert told["pad.reward_model_version"] == model.version
        assert told["pad.rows"] == 3
        assert told["pad.prompt_tokens"] == opened.num_prompt_tokens > other.num_prompt_tokens
        assert told["pad.cached_tokens"] == opened.num_cached_tokens
        assert (told["pad.written_tokens"], told["pad.committed_tokens"]) == (2, 5)
        assert told["pad.steps"] == 3
        assert all(told[f"pad.{name}_s"] > 0 for name in ("prefill", "forward", "select"))
        assert told["pad.queue_s"] >= 0
        assert told["pad.end"] == "closed"
        assert still_open.is_error is None


async def test_a_stream_that_ends_ends_the_spans_of_its_sessions(model: PersRM) -> None:
    tracer = FakeTracer()
    async with running_replica(model, tracer=tracer) as replica:
        generator = replica.generator()
        await open_traced(generator, 1)
        replica.batcher.intake.end_stream(generator.stream)
        await replica.settle()
    (span,) = tracer.spans
    assert (span.attributes["pad.end"], span.is_error) == ("stream_ended", False)


async def test_a_session_that_is_opened_again_has_two_spans(model: PersRM) -> None:
    tracer = FakeTracer()
    async with running_replica(model, tracer=tracer) as replica:
        generator = replica.generator()
        await open_traced(generator, 1, epoch=1)
        await open_traced(generator, 1, epoch=2)
        await generator.close(1)
        await replica.settle()
    ends = [(span.attributes["pad.epoch"], span.attributes["pad.end"]) for span in tracer.spans]
    assert ends == [(1, "reopened"), (2, "closed")]


@pytest.mark.parametrize("limit", [{"num_slots": 2}, {"max_waiting_sessions": 0}])
async def test_a_session_without_room_tells_why(model: PersRM, limit: dict[str, int]) -> None:
    tracer = FakeTracer()
    async with running_replica(model, tracer=tracer, **limit) as replica:  # type: ignore[arg-type]
        answer = await open_traced(replica.generator(), 1, TWO)
        assert [fault.reason for fault in answer.faults] == [Reason.NO_FREE_SLOTS]
        await replica.settle()
    (span,) = tracer.spans
    assert span.is_error is True
    assert span.attributes["error.type"] == span.attributes["pad.end"] == "no_free_slots"


async def test_a_session_that_nobody_records_is_not_followed(model: PersRM) -> None:
    tracer = FakeTracer()
    async with running_replica(model, tracer=tracer) as replica:
        generator = replica.generator()
        await open_traced(generator, 1, trace=UNSAMPLED)
        (rewards,) = await generator.score((1, 2, [4, 5]))
        assert not isinstance(rewards, RowFault)
        await generator.close(1)
        await replica.settle()
        (span,) = tracer.spans
        assert "pad.steps" not in span.attributes


async def test_the_warm_up_is_in_no_trace(model: PersRM) -> None:
    tracer = FakeTracer()
    async with running_replica(model, tracer=tracer) as replica:
        await warm_up(replica.batcher, model)
    assert [span.is_recording for span in tracer.spans] == [False]


async def test_what_is_open_when_the_process_stops_is_not_lost(model: PersRM) -> None:
    tracer = FakeTracer()
    async with running_replica(model, tracer=tracer) as replica:
        await open_traced(replica.generator(), 1)
        traces: SessionTraces = replica.batcher._traces
        traces.stop()
    tracer.close()
    assert [span.attributes["pad.end"] for span in tracer.spans] == ["stopped"]


def test_all_methods_are_traced_but_the_stream_and_what_no_request_asks_for() -> None:
    left_out = {f"pad.v1.RewardService/{name}" for name in ("Score", "Forget", "GetServerInfo")}
    assert set(TRACED_METHODS) | left_out == set(METHOD_SCOPES)
    assert not set(TRACED_METHODS) & left_out
