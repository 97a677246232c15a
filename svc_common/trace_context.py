"""Where a call stands in a distributed trace: the two texts of W3C Trace Context."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from svc_common.errors import InvalidRequestError

TRACEPARENT_KEY = "traceparent"
TRACESTATE_KEY = "tracestate"
MAX_STATE_CHARACTERS = 512  # what everybody must be able to pass on
MAX_STATE_MEMBERS = 32
_PARENT = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})"
    r"-(?P<ids>(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(?P<more>-.*)?"
)
_MEMBER = re.compile(
    r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


@dataclass(frozen=True)
class TraceContext:
    """A span that others may go on from, as it travels; both texts are valid."""

    traceparent: str
    tracestate: str = ""

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers of a call, or a gRPC call's metadata."""
        state = ((TRACESTATE_KEY, self.tracestate),) if self.tracestate else ()
        return ((TRACEPARENT_KEY, self.traceparent), *state)


def read_trace_context(headers: Iterable[tuple[str, str | bytes]]) -> TraceContext | None:
    """Return what a caller's headers say, None where they say nothing of use.

    Damaged headers are ignored, as W3C has it: a request is worth more than its trace.
    """
    parents, states = [], []
    for key, value in headers:
        if key == TRACEPARENT_KEY:
            parents.append(str(value))
        elif key == TRACESTATE_KEY:
            states.append(str(value))
    if len(parents) != 1:
        return None
    parent, state = _parent(parents[0].strip()), _state(",".join(states))
    return None if parent is None else TraceContext(parent, state or "")


def check_trace_context(field: str, traceparent: str, tracestate: str) -> TraceContext:
    """Return a context that must be one.

    Raises:
        InvalidRequestError: it is none.
    """
    parent = _parent(traceparent)
    if parent is None:
        rule = "must be as in W3C Trace Context: 00-<trace id>-<span id>-<flags>"
        raise InvalidRequestError(f"{field}.traceparent: {rule}, got {traceparent[:60]!r}")
    state = _state(tracestate)
    if state is None:
        rule = f"at most {MAX_STATE_MEMBERS} pairs key=value in {MAX_STATE_CHARACTERS} characters"
        got = f"got {len(tracestate)} characters"
        raise InvalidRequestError(
            f"{field}.tracestate: must be as in W3C Trace Context, {rule}, {got}"
        )
    return TraceContext(parent, state)


def _parent(text: str) -> str | None:
    """Return a traceparent in the form of version 00, which later ones begin with."""
    found = _PARENT.fullmatch(text)
    if found is None or (found["version"] == "00" and found["more"]):
        return None
    return f"00-{found['ids']}"


def _state(text: str) -> str | None:
    """Return a tracestate without what it may hold beside its members; None if it is none."""
    if len(text) > MAX_STATE_CHARACTERS:
        return None
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    is_fit = len(members) <= MAX_STATE_MEMBERS and all(map(_MEMBER.fullmatch, members))
    return ",".join(members) if is_fit else None
