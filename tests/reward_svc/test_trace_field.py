"""SessionOpen.trace over the wire: a valid one is taken, another refused by name."""

import pytest

from pad.v1 import reward_pb2
from reward_svc.model import PersRM
from tests.reward_svc.replica import BRIEF
from tests.reward_svc.service import running_service

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def answer(model: PersRM, **trace: str) -> reward_pb2.ScoreResponse:
    async with running_service(model) as service:
        opening = service.open(1, BRIEF)
        opening.trace.CopyFrom(reward_pb2.TraceContext(**trace))

        async def requests():
            yield reward_pb2.ScoreRequest(opens=[opening])

        (response,) = [each async for each in service.stub.Score(requests(), timeout=60)]
        return response


@pytest.mark.parametrize("state", ["", "a=1", ",".join(f"k{i:02}={'x' * 12}" for i in range(30))])
async def test_a_trace_is_taken(model: PersRM, state: str) -> None:
    response = await answer(model, traceparent=PARENT, tracestate=state)
    assert len(response.opened) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "trace.traceparent: must be as in W3C"),
        ({"traceparent": PARENT[:-1]}, "trace.traceparent: must be as in W3C"),
        ({"traceparent": PARENT + "0"}, "trace.traceparent: must be as in W3C"),
        ({"traceparent": PARENT, "tracestate": "x" * 513}, "trace.tracestate: must be as in W3C"),
        ({"traceparent": PARENT, "tracestate": "a=é"}, "trace.tracestate: must be as in W3C"),
        ({"tracestate": "a=1"}, "trace.traceparent: must be as in W3C"),
    ],
)
async def test_what_is_no_trace_is_refused_by_name(
    model: PersRM, fields: dict[str, str], message: str
) -> None:
    response = await answer(model, **fields)
    (error,) = response.row_errors
    assert error.reason == reward_pb2.ROW_ERROR_REASON_INVALID
    assert error.message.startswith(message)
