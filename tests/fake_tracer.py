"""Spans that stay in this process, for tests of what they are told."""

from collections.abc import Mapping
from typing import Any

from svc_common.trace_context import TraceContext


class FakeSpan:
    """Implements `tracing.Span`; `is_error` is None until it ends."""

    def __init__(self, name: str, parent: TraceContext | None, attributes: Mapping[str, Any]):
        self.name = name
        self.parent = parent
        self.attributes = dict(attributes)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.is_error: bool | None = None
        self.is_recording = parent is None or parent.traceparent.endswith("1")
        self.trace_id = "" if parent is None else parent.trace_id

    @property
    def context(self) -> TraceContext | None:
        return self.parent

    def rename(self, name: str) -> None:
        self.name = name

    def set(self, attributes: Mapping[str, Any]) -> None:
        assert self.is_error is None, "was told something after its end"
        self.attributes |= attributes

    def add_event(self, name: str, attributes: Mapping[str, Any]) -> None:
        assert self.is_error is None, "was told something after its end"
        self.events.append((name, dict(attributes)))

    def end(self, *, is_error: bool = False) -> None:
        assert self.is_error is None, "ended twice"
        self.is_error = is_error


class FakeTracer:
    """Implements `tracing.Tracer`."""

    def __init__(self) -> None:
        self.spans: list[FakeSpan] = []

    def start(
        self, name: str, parent: TraceContext | None, attributes: Mapping[str, Any]
    ) -> FakeSpan:
        self.spans.append(FakeSpan(name, parent, attributes))
        return self.spans[-1]

    def close(self) -> None:
        assert all(span.is_error is not None for span in self.spans)
