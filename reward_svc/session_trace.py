"""What the trace of a session tells: its part of the forwards, from its opening to its close.

A stream carries the sessions of all requests and lasts for days, so it has no span of its own:
each session goes on from the span that its opening names.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from reward_svc.messages import Reason
from reward_svc.stream import Session
from svc_common.tracing import Attributes, Span, Tracer

SESSION_SPAN = "pad.reward.session"
TRACED_METHODS: dict[str, Attributes] = {
    "pad.v1.RewardService/ScoreSequences": {},
    "pad.v1.RewardService/EncodePreference": {},
}
SESSION_ATTRIBUTES = {
    "gen_ai.request.model": "name of the reward model",
    "pad.reward_model_version": "of the loaded model",
    "pad.epoch": "which opening of the answer's session it is; above 1: it had moved",
    "pad.rows": "rows of the KV cache",
    "pad.prompt_tokens": "tokens of the reward prompts of all rows",
    "pad.cached_tokens": "of these and of what was written, tokens from the prefix cache",
    "pad.written_tokens": "tokens the answer had when the session was opened",
    "pad.committed_tokens": "tokens it had in the end",
    "pad.steps": "steps whose candidates were scored",
    "pad.queue_s": "seconds from the opening until its prefill began",
    "pad.prefill_s": "seconds of running its prompts",
    "pad.forward_s": "seconds of the forwards that committed its tokens, which sessions share",
    "pad.select_s": "seconds of scoring candidates, which sessions share",
    "pad.end": "`closed`, `stream_ended`, `reopened`, `stopped`, or why it failed",
    "error.type": "why it failed",
}
_ENDS = {Reason.UNKNOWN_SESSION: "closed", Reason.OUT_OF_STEP: "reopened"}


@dataclass
class SessionTrace:
    """The span of a session, and what it has to tell so far."""

    span: Span
    opened_at: float = field(default_factory=time.perf_counter)
    queue_s: float | None = None
    prefill_s: float = 0.0
    forward_s: float = 0.0
    select_s: float = 0.0
    num_steps: int = 0


class SessionTraces:
    """Keeps the spans of open sessions; those that nobody records have none."""

    def __init__(self, tracer: Tracer, model_id: str, model_version: str) -> None:
        self._tracer = tracer
        self._known: Attributes = {
            "gen_ai.request.model": model_id,
            "pad.reward_model_version": model_version,
        }
        self._open: dict[Session, SessionTrace] = {}

    def opened(self, session: Session) -> None:
        """Start a session's span, as part of the trace its opening names."""
        span = self._tracer.start(SESSION_SPAN, session.opening.trace, self._known)
        if span.is_recording:
            self._open[session] = SessionTrace(span)

    def prefilled(self, session: Session, started: float, seconds: float) -> None:
        """Note a slice of a session's prefill; `started` by `time.perf_counter`."""
        trace = self._open.get(session)
        if trace is None:
            return
        if trace.queue_s is None:
            trace.queue_s = started - trace.opened_at
        trace.prefill_s += seconds

    def committed(self, sessions: Sequence[Session]) -> None:
        """Note a forward of sessions."""
        for session in sessions:
            trace = self._open.get(session)
            if trace is not None:
                trace.forward_s += session.forward_s

    def scored(self, sessions: Sequence[Session], select_s: float) -> None:
        """Note that candidates of sessions were scored together."""
        for session in sessions:
            trace = self._open.get(session)
            if trace is not None:
                trace.num_steps += 1
                trace.select_s += select_s

    def closed(self, session: Session, reason: Reason) -> None:
        """End a session's span."""
        end = "stream_ended" if session.stream.is_ended else _ENDS.get(reason, "")
        self._end(session, end or reason.name.lower(), is_error=not end)

    def stop(self) -> None:
        """End all spans: the process stops."""
        for session in list(self._open):
            self._end(session, "stopped", is_error=False)

    def _end(self, session: Session, end: str, *, is_error: bool) -> None:
        trace = self._open.pop(session, None)
        if trace is None:
            return
        opening = session.opening
        trace.span.set(
            {
                "pad.epoch": opening.epoch,
                "pad.rows": len(opening.plan.prompts),
                "pad.prompt_tokens": sum(len(row.token_ids) for row in opening.plan.prompts),
                "pad.cached_tokens": session.num_cached_tokens,
                "pad.written_tokens": len(opening.token_ids),
                "pad.committed_tokens": session.num_committed,
                "pad.steps": trace.num_steps,
                "pad.queue_s": trace.queue_s or 0.0,
                "pad.prefill_s": trace.prefill_s,
                "pad.forward_s": trace.forward_s,
                "pad.select_s": trace.select_s,
                "pad.end": end,
                **({"error.type": end} if is_error else {}),
            }
        )
        trace.span.end(is_error=is_error)
