"""The caller's trace, for the server to go on from; by OpenTelemetry, where the caller has it."""

import sys
from importlib import import_module

Metadata = tuple[tuple[str, str], ...]
TRACEPARENT_KEY = "traceparent"


def current_trace() -> Metadata:
    """Return what tells a server of the caller's current span (W3C Trace Context), if it has one.

    Only who imported OpenTelemetry can have one, so it is never imported on the client's account.
    Of the caller's baggage, which may hold anything, nothing is sent.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ()
    # Part of what was imported; the import system waits where another thread is at it still.
    tracecontext = import_module("opentelemetry.trace.propagation.tracecontext")
    headers: dict[str, str] = {}
    tracecontext.TraceContextTextMapPropagator().inject(headers)
    return tuple(headers.items())
