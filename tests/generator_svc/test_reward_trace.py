"""A session's trace goes with it, wherever it goes."""

from dataclasses import replace

from svc_common.trace_context import TraceContext
from tests.generator_svc.fake_replica import FakeReplica
from tests.generator_svc.test_reward_pool import CONTEXT, running_pool

TRACE = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "a=1")


async def test_a_session_that_moves_stays_in_its_trace() -> None:
    async with running_pool(FakeReplica(), FakeReplica()) as harness:
        await harness.ready(2)
        session = await harness.open(1, context=replace(CONTEXT, trace=TRACE))
        (home,) = [its for its in harness.replicas if its.traces]
        (other,) = [its for its in harness.replicas if not its.traces]
        home.hang_up.set()
        await harness.until(lambda: bool(other.traces))
        assert (home.traces, other.traces) == (
            [(TRACE.traceparent, 1)],
            [(TRACE.traceparent, 2)],
        )
        harness.pool.close(session)


async def test_a_session_that_nobody_traces_names_no_trace() -> None:
    async with running_pool(FakeReplica()) as harness:
        await harness.open(1)
        assert harness.replicas[0].traces == [("", 1)]
