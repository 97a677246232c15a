"""OpenTelemetry behind `tracing.Tracer`: the only module that imports it."""

import logging
import threading
import uuid
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
)
from prometheus_client import CollectorRegistry

from svc_common.metrics import TraceMetrics
from svc_common.trace_context import TraceContext
from svc_common.tracing import MAX_EVENTS, Attributes, TracerOptions

logger = logging.getLogger(__name__)

EXPORT_TIMEOUT_S = 10.0  # of one batch, with all repetitions
EXPORT_INTERVAL_S = 1.0
MAX_QUEUED_SPANS = 2048  # more are dropped
MAX_BATCH_SPANS = 64  # each with `MAX_EVENTS`: together under the 4 MiB that collectors take
FLUSH_S = 2.0
FLUSH_FAILING_S = 0.2  # where the collector took nothing lately
ENDING_S = 1.0  # for the exporting thread to notice


class OtelSpan:
    """A span of the SDK; implements `tracing.Span`."""

    def __init__(
        self, span: trace.Span, parent: TraceContext | None, metrics: TraceMetrics
    ) -> None:
        self._span = span
        self._metrics = metrics
        self.is_recording = span.is_recording()
        its = span.get_span_context()
        # Of a trace that begins here and is not sampled there is nothing to be found.
        is_known = its.is_valid and (self.is_recording or parent is not None)
        self.trace_id = trace.format_trace_id(its.trace_id) if is_known else ""

    @property
    def context(self) -> TraceContext | None:
        its = self._span.get_span_context()
        if not its.is_valid:  # OTEL_SDK_DISABLED
            return None
        ids = f"{trace.format_trace_id(its.trace_id)}-{trace.format_span_id(its.span_id)}"
        return TraceContext(f"00-{ids}-{its.trace_flags:02x}", its.trace_state.to_header())

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def add_event(self, name: str, attributes: Attributes) -> None:
        self._span.add_event(name, attributes)

    def end(self, *, is_error: bool = False) -> None:
        if is_error:  # without a text: those of errors may quote a caller
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
        if self.is_recording:
            self._metrics.ended()


class OtelTracer:
    """Implements `tracing.Tracer` by the SDK's batches and OTLP over gRPC."""

    def __init__(self, options: TracerOptions, registry: CollectorRegistry) -> None:
        # It repeats itself while a collector is away; `_Exporter` says it once, with a metric.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._metrics = TraceMetrics(registry)
        self._exporter = _Exporter(options, self._metrics)
        resource = {
            "service.name": f"pad-{options.service}",
            "service.version": options.version,
            "service.instance.id": str(uuid.uuid4()),
        }
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(options.sample_ratio)),
            resource=Resource.create(resource),
            span_limits=SpanLimits(max_events=MAX_EVENTS),
            shutdown_on_exit=False,  # it would wait for 30 s
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=MAX_QUEUED_SPANS,
                schedule_delay_millis=EXPORT_INTERVAL_S * 1000,
                max_export_batch_size=MAX_BATCH_SPANS,
            )
        )
        self._tracer = self._provider.get_tracer("pad-serving", options.version)

    def start(self, name: str, parent: TraceContext | None, attributes: Attributes) -> OtelSpan:
        # An empty context: what happens to be current in this task is nothing to go on from.
        context = Context() if parent is None else _context_of(parent)
        span = self._tracer.start_span(name, context, SpanKind.SERVER, attributes)
        return OtelSpan(span, parent, self._metrics)

    def close(self) -> None:
        limit_s = FLUSH_FAILING_S if self._exporter.is_failing else FLUSH_S
        flushing = threading.Thread(target=self._provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(limit_s)
        if flushing.is_alive():
            self._exporter.shutdown()  # what is under way fails, and all that waits behind it
            flushing.join(ENDING_S)


class _Exporter(SpanExporter):
    """Sends spans by OTLP, and tells once when that begins to fail, and when it works again."""

    def __init__(self, options: TracerOptions, metrics: TraceMetrics) -> None:
        self._endpoint = options.endpoint
        self._metrics = metrics
        self.is_failing = False
        self._inner = OTLPSpanExporter(
            endpoint=options.endpoint,
            insecure=options.credentials is None,
            credentials=options.credentials,
            timeout=EXPORT_TIMEOUT_S,
        )

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._inner.export(spans)
        finally:  # a channel that is closed meanwhile raises
            is_failing = result is not SpanExportResult.SUCCESS
            self._metrics.exported(len(spans), is_failure=is_failing)
            if is_failing != self.is_failing:
                self.is_failing = is_failing
                self._tell()
        return result

    def _tell(self) -> None:
        extra = {"endpoint": self._endpoint}
        if self.is_failing:
            logger.warning("traces are not taken, and dropped", extra=extra)
        else:
            logger.info("traces are taken again", extra=extra)

    def shutdown(self) -> None:
        self._inner.shutdown()


def _context_of(parent: TraceContext) -> Context:
    _, trace_id, span_id, flags = parent.traceparent.split("-")
    context = SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(flags, 16)),
        trace_state=TraceState.from_header([parent.tracestate]),
    )
    return trace.set_span_in_context(NonRecordingSpan(context), Context())
