"""What a caller's headers may say, and what comes of what they may not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from svc_common.errors import InvalidRequestError
from svc_common.trace_context import TraceContext, check_trace_context, read_trace_context

IDS = f"{'4bf92f3577b34da6a3ce929d0e0e4736'}-{'00f067aa0ba902b7'}"
PARENT = f"00-{IDS}-01"


def read(*headers):
    return read_trace_context(headers)


def test_a_traceparent_goes_on_with_its_state():
    found = read(("x", "y"), ("traceparent", PARENT), ("tracestate", "a=1,b=2"))
    assert found == TraceContext(PARENT, "a=1,b=2")
    assert found.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert found.metadata == (("traceparent", PARENT), ("tracestate", "a=1,b=2"))
    assert read(("traceparent", PARENT)).metadata == (("traceparent", PARENT),)


def test_states_of_several_headers_are_one():
    found = read(("tracestate", "a=1"), ("traceparent", PARENT), ("tracestate", " b=2 ,,c=3"))
    assert found.tracestate == "a=1,b=2,c=3"


def test_a_later_version_is_read_as_this_one():
    assert read(("traceparent", f"cc-{IDS}-01-what-comes")) == TraceContext(PARENT)


BAD_PARENTS = [
    "",
    "00",
    PARENT.upper(),
    f"ff-{IDS}-01",
    f"00-{IDS}-01-more",
    f"00-{IDS}",
    f"00-{'0' * 32}-00f067aa0ba902b7-01",
    f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
    f"{PARENT}\n",
    PARENT * 1000,
    "00-Qanary-Qanary-01",
]
BAD_STATES = [
    "a",
    "=1",
    "A=1",
    "a=" + "x" * 257,
    ",".join(f"k{i}=1" for i in range(33)),
    ",".join(f"k{i}={'x' * 100}" for i in range(6)),
    "a=\x00",
    "a=é",
    "a=1\nb=2",
]


@pytest.mark.parametrize("parent", BAD_PARENTS)
def test_a_damaged_header_costs_a_caller_the_trace_and_nothing_else(parent):
    assert (
        read(("traceparent", parent.rstrip("\n") + ("." if parent.endswith("\n") else ""))) is None
    )


def test_two_parents_are_none():
    assert read(("traceparent", PARENT), ("traceparent", PARENT)) is None


@pytest.mark.parametrize("state", BAD_STATES)
def test_a_damaged_state_is_left_out(state):
    assert read(("traceparent", PARENT), ("tracestate", state)) == TraceContext(PARENT)


@pytest.mark.parametrize("parent", BAD_PARENTS)
def test_a_field_that_is_no_parent_is_named_with_its_rule(parent):
    with pytest.raises(InvalidRequestError, match=r"^trace\.traceparent: must be as in W3C") as e:
        check_trace_context("trace", parent, "")
    assert len(str(e.value)) < 300


@pytest.mark.parametrize("state", BAD_STATES)
def test_a_field_that_is_no_state_is_named_with_its_rule(state):
    rule = rf"^trace\.tracestate: must be as in W3C .* 512 characters, got {len(state)} characters$"
    with pytest.raises(InvalidRequestError, match=rule):
        check_trace_context("trace", PARENT, state)


def test_the_largest_state_fits():
    state = ",".join(f"k{i}={'x' * 11}" for i in range(32))[:512]
    assert check_trace_context("trace", PARENT, state).tracestate == state
    assert len(check_trace_context("trace", PARENT, f"k={'x' * 256}").tracestate) == 258


@given(
    parent=st.one_of(
        st.from_regex(r"\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[a-z]*)?\Z"),
        st.text(max_size=60),
    )
)
def test_it_reads_what_opentelemetry_reads(parent):
    context = TraceContextTextMapPropagator().extract({"traceparent": parent}, Context())
    theirs = trace.get_current_span(context).get_span_context()
    ours = read(("traceparent", parent))
    assert (ours is not None) == theirs.is_valid
    if ours is not None:
        assert int(ours.trace_id, 16) == theirs.trace_id
