"""The trace of an answer: where its time went, and what the profile did to it.

Numbers, names of ours and the request id: never a text, a user or a preference.
"""

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace

from prometheus_client import CollectorRegistry

from generator_svc.engine.sequence import ChosenToken, FinishReason, Sequence, Timings
from generator_svc.metrics import GeneratorMetrics
from generator_svc.request_parsing import GenerationRequest
from generator_svc.trace_attributes import STEP_EVENT
from svc_common.trace_context import TraceContext
from svc_common.tracing import MAX_EVENTS, Attributes, Span, current_span

TRACED_METHODS: dict[str, Attributes] = {
    "pad.v1.GeneratorService/Generate": {"gen_ai.request.stream": True},
    "pad.v1.GeneratorService/Complete": {"gen_ai.request.stream": False},
    "pad.v1.GeneratorService/ExplainPersonalization": {"gen_ai.request.stream": False},
    **{
        f"pad.v1.ProfileService/{name}": {}
        for name in (
            *("PutProfile", "GetProfile", "DeleteProfile", "ListProfiles"),
            *("ListProfileRevisions", "RestoreProfile"),
        )
    },
}
_REASONS = {
    FinishReason.END_OF_TURN: "stop",
    FinishReason.STOP_STRING: "stop",
    FinishReason.LENGTH: "length",
}


class GenerationTrace:
    """An answer that is not recorded; `context` travels on all the same, so that all agree."""

    def __init__(self, context: TraceContext | None = None) -> None:
        self.context = context

    def planned(self, *, num_prompt_tokens: int, beta: float, profile_revision: int) -> None:
        """Note what was looked up."""

    def following(self, _sequences: list[Sequence]) -> AbstractContextManager[None]:
        """Note what becomes of sequences while the body runs, whatever ends it."""
        return nullcontext()

    def finished(
        self, reason: FinishReason, *, num_tokens: int, num_fallback: int, model_version: str
    ) -> None:
        """Note that the answer is complete; of samples, what was kept."""


NO_TRACE = GenerationTrace()


@dataclass
class _Steps:
    """The steps of one sequence so far; `before` are its timings at the last one."""

    has_events: bool
    num_guided: int = 0
    num_changed: int = 0
    before: Timings = field(default_factory=Timings)


class _RecordedGeneration(GenerationTrace):
    """An answer whose span is recorded."""

    def __init__(self, span: Span, traces: "GenerationTraces", *, has_events: bool) -> None:
        super().__init__(span.context)
        self._span = span
        self._traces = traces
        self._has_events = has_events
        self._num_steps = 0

    def planned(self, *, num_prompt_tokens: int, beta: float, profile_revision: int) -> None:
        self._span.set(
            {
                "gen_ai.usage.input_tokens": num_prompt_tokens,
                "pad.beta": beta,
                "pad.profile_revision": profile_revision,
            }
        )

    @contextmanager
    def following(self, sequences: list[Sequence]) -> Iterator[None]:
        steps = [_Steps(self._has_events) for _ in sequences]
        for sequence, its in zip(sequences, steps, strict=True):
            self._traces.followed[sequence] = self, its
        try:
            yield
        finally:
            for sequence in sequences:
                del self._traces.followed[sequence]
            self._sum_up(sequences, steps)

    def _sum_up(self, sequences: list[Sequence], steps: list[_Steps]) -> None:
        num_tokens = sum(len(sequence.token_ids) for sequence in sequences)
        num_guided = sum(its.num_guided for its in steps)
        is_guided = sequences[0].params.is_guided
        versions = [use.version for sequence in sequences for use in sequence.reward_models]
        timings = _longest([sequence.timings for sequence in sequences])
        left_out = {"pad.steps_left_out": max(0, self._num_steps - MAX_EVENTS)}
        self._span.set(
            {
                "gen_ai.usage.output_tokens": num_tokens,
                "pad.guided_tokens": num_guided,
                "pad.changed_tokens": sum(its.num_changed for its in steps),
                "pad.fallback_tokens": num_tokens - num_guided if is_guided else 0,
                "pad.reward_model_version": versions[-1] if versions else "",
                "pad.queue_s": timings.queue_s,
                "pad.prefill_s": timings.prefill_s,
                "pad.time_to_first_token_s": timings.time_to_first_token_s,
                "pad.forward_s": timings.generator_forward_s,
                "pad.reward_wait_s": timings.reward_wait_s,
                "pad.select_s": timings.select_s,
                **(left_out if self._has_events else {}),
            }
        )

    def note_step(self, token: ChosenToken, sequence: Sequence, steps: _Steps) -> None:
        """Note a token, with an event if this answer has some."""
        steps.num_guided += token.is_guided
        steps.num_changed += token.is_guided and token.is_changed
        if not steps.has_events:
            return
        now, before, steps.before = sequence.timings, steps.before, replace(sequence.timings)
        self._num_steps += 1
        if self._num_steps > MAX_EVENTS:
            return
        self._span.add_event(
            STEP_EVENT,
            {
                "pad.index": token.index,
                "pad.forward_s": now.generator_forward_s - before.generator_forward_s,
                "pad.reward_wait_s": now.reward_wait_s - before.reward_wait_s,
                "pad.select_s": now.select_s - before.select_s,
                "pad.guided": token.is_guided,
                "pad.changed": token.is_guided and token.is_changed,
            },
        )

    def finished(
        self, reason: FinishReason, *, num_tokens: int, num_fallback: int, model_version: str
    ) -> None:
        self._span.set(
            {
                "gen_ai.usage.output_tokens": num_tokens,
                "pad.fallback_tokens": num_fallback,
                "gen_ai.response.finish_reasons": (_REASONS[reason],),
                "pad.finish_reason": reason.value,
                "pad.reward_model_version": model_version,
            }
        )


class GenerationTraces:
    """Makes the traces of answers.

    Args:
        model_id: Name of the base model.
        step_ratio: Share of the recorded answers whose steps are events of their spans.
    """

    def __init__(self, model_id: str, step_ratio: float) -> None:
        self._model_id = model_id
        self._step_ratio = step_ratio
        self.followed: dict[Sequence, tuple[_RecordedGeneration, _Steps]] = {}

    def begin(self, request: GenerationRequest) -> GenerationTrace:
        """Return the trace of the answer to a request, whose RPC is served by this task."""
        span = current_span()
        if span is None:
            return NO_TRACE
        if not span.is_recording:
            return GenerationTrace(span.context)
        operation = "text_completion" if isinstance(request.prompt, str) else "chat"
        span.rename(f"{operation} {self._model_id}")
        span.set(
            {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "pad",
                "gen_ai.output.type": "text",
                "gen_ai.request.model": self._model_id,
                "gen_ai.response.model": self._model_id,
                "gen_ai.request.max_tokens": request.max_tokens,
                "gen_ai.request.temperature": request.temperature,
                "gen_ai.request.top_p": request.top_p,
                "gen_ai.request.top_k": request.top_k,
                "pad.strategy": request.strategy.name,
                "pad.priority": request.priority.value,
            }
        )
        has_events = random.random() < self._step_ratio
        return _RecordedGeneration(span, self, has_events=has_events)

    def note_step(self, token: ChosenToken, sequence: Sequence) -> None:
        """Note a token of any sequence; those that nobody follows cost a look-up."""
        found = self.followed.get(sequence)
        if found is not None:
            trace, steps = found
            trace.note_step(token, sequence, steps)


class TracedMetrics(GeneratorMetrics):
    """Metrics that tell traces of each token, too."""

    def __init__(self, registry: CollectorRegistry, traces: GenerationTraces) -> None:
        super().__init__(registry)
        self._traces = traces

    def token(self, token: ChosenToken, sequence: Sequence, since_last_s: float | None) -> None:
        super().token(token, sequence, since_last_s)
        self._traces.note_step(token, sequence)


def _longest(timings: list[Timings]) -> Timings:
    """Return the longest of each phase: samples of one request are written beside each other."""
    names = [each.name for each in fields(Timings)]
    return Timings(**{name: max(getattr(each, name) for each in timings) for name in names})
