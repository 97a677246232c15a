"""Spans of the real SDK at a real collector: whole, sampled, bounded, and never in the way."""

import logging
import subprocess
import sys
import time
from dataclasses import dataclass

import grpc
import pytest
from prometheus_client import CollectorRegistry

from svc_common import otel
from svc_common.settings import SettingsError
from svc_common.trace_context import TraceContext
from svc_common.tracing import MAX_EVENTS, check_tracing, open_tracer
from tests.otlp_receiver import receiving

SAMPLED = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=1")
UNSAMPLED = TraceContext("00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")


@dataclass(frozen=True)
class Settings:
    traces_endpoint: str
    traces_ca_file: str = ""
    traces_sample_ratio: float = 1.0


@pytest.fixture(autouse=True)
def quiet_again(monkeypatch):
    """A tracer turns the SDK's own log off, for its whole process."""
    sdk = logging.getLogger("opentelemetry")
    level = sdk.level
    yield
    sdk.setLevel(level)


@pytest.fixture
def registry():
    return CollectorRegistry()


def tracer_of(endpoint, registry, **settings):
    tracer = open_tracer(Settings(endpoint, **settings), "TEST_", "test", "1.2", registry)
    assert tracer is not None
    return tracer


def count(registry, outcome):
    return registry.get_sample_value("pad_trace_spans_total", {"outcome": outcome})


def test_a_span_comes_as_it_was_told(registry):
    with receiving() as receiver:
        tracer = tracer_of(receiver.address, registry)
        span = tracer.start("first", SAMPLED, {"a": 1})
        span.rename("renamed")
        span.set({"b": "x", "c": (True, False)})
        span.add_event("event", {"d": 0.5})
        inner = tracer.start("inner", span.context, {})
        inner.end(is_error=True)
        span.end()
        tracer.close()
    (inner_sent, sent) = receiver.spans
    assert (sent.service, sent.name) == ("pad-test", "renamed")
    assert sent.trace_id == span.trace_id == inner_sent.trace_id == SAMPLED.trace_id
    assert sent.parent_id == "00f067aa0ba902b7"
    assert inner_sent.parent_id == sent.span_id
    assert sent.message.trace_state == inner_sent.message.trace_state == "vendor=1"
    assert sent.attributes == {"a": 1, "b": "x", "c": [True, False]}
    assert sent.events == [("event", {"d": 0.5})]
    assert (sent.is_error, inner_sent.is_error) == (False, True)
    assert [count(registry, name) for name in ("ended", "exported", "failed")] == [2, 2, 0]


def test_whoever_began_a_trace_decides_and_of_others_the_ratio(registry):
    with receiving() as receiver:
        tracer = tracer_of(receiver.address, registry, traces_sample_ratio=0.0)
        spans = [tracer.start("span", parent, {}) for parent in (SAMPLED, UNSAMPLED, None)]
        for span in spans:
            span.end()
        tracer.close()
    assert [sent.trace_id for sent in receiver.spans] == [SAMPLED.trace_id]
    assert [span.is_recording for span in spans] == [True, False, False]
    # What is nowhere to be found is not named in logs; what the caller has is.
    assert [span.trace_id for span in spans] == [SAMPLED.trace_id, UNSAMPLED.trace_id, ""]
    assert [span.context.traceparent[-2:] for span in spans[:2]] == ["01", "00"]


def test_half_of_the_traces_is_half_of_them(registry):
    with receiving() as receiver:
        tracer = tracer_of(receiver.address, registry, traces_sample_ratio=0.5)
        spans = [tracer.start("span", None, {}) for _ in range(400)]
        tracer.close()
    assert 120 < sum(span.is_recording for span in spans) < 280


def test_the_largest_batch_is_no_larger_than_collectors_take(registry):
    """One that is would be refused as a whole, again and again."""
    with receiving() as receiver:
        tracer = tracer_of(receiver.address, registry)
        step = {f"pad.{name}_s": 0.123456 for name in ("forward", "reward_wait", "select")}
        for _ in range(otel.MAX_BATCH_SPANS):
            span = tracer.start("span", None, {f"pad.attribute_{i}": "x" * 40 for i in range(40)})
            for index in range(MAX_EVENTS + 10):
                span.add_event(
                    "pad.step",
                    {"pad.index": index, **step, "pad.guided": True, "pad.changed": True},
                )
            span.end()
        receiver.wait_for(lambda _: True, otel.MAX_BATCH_SPANS)
        tracer.close()
    assert count(registry, "exported") == len(receiver.spans) == otel.MAX_BATCH_SPANS
    assert len(receiver.requests) == 1
    assert 1 << 20 < len(receiver.requests[0]) < 4 << 20
    assert {len(sent.events) for sent in receiver.spans} == {MAX_EVENTS}


def test_what_is_disabled_by_the_standard_variable_still_passes_traces_on(registry, monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with receiving() as receiver:
        tracer = tracer_of(receiver.address, registry)
        span, root = tracer.start("span", SAMPLED, {}), tracer.start("span", None, {})
        assert span.context == SAMPLED
        assert (root.context, root.trace_id, root.is_recording) == (None, "", False)
        span.end()
        root.end()
        tracer.close()
    assert receiver.spans == []


def closed_port():
    with receiving() as receiver:
        return receiver.address


def test_a_dead_collector_costs_neither_time_nor_an_end_in_good_order(
    registry, monkeypatch, caplog
):
    monkeypatch.setattr(otel, "EXPORT_TIMEOUT_S", 1.0)
    tracer = tracer_of(closed_port(), registry)
    started = time.monotonic()
    for _ in range(3 * otel.MAX_QUEUED_SPANS):
        tracer.start("span", None, {}).end()
    assert time.monotonic() - started < 5.0
    tracer.close()
    assert time.monotonic() - started < 5.0 + otel.FLUSH_S + otel.ENDING_S
    assert count(registry, "ended") == 3 * otel.MAX_QUEUED_SPANS
    assert count(registry, "exported") == 0
    told = [record.getMessage() for record in caplog.records]
    assert told == ["traces are not taken, and dropped"]


def test_a_collector_that_never_answers_is_not_waited_for(registry):
    with receiving() as receiver:
        receiver.answers.clear()
        tracer = tracer_of(receiver.address, registry)
        tracer.start("span", None, {}).end()
        started = time.monotonic()
        tracer.close()
        assert otel.FLUSH_S <= time.monotonic() - started < otel.FLUSH_S + otel.ENDING_S + 2.0
        receiver.answers.set()


def test_spans_go_encrypted_where_authorities_are_named(registry, authority):
    pair = authority.issue("collector", "IP:127.0.0.1")
    keys = grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.cert.read_bytes())])
    with receiving(keys) as receiver:
        tracer = tracer_of(receiver.address, registry, traces_ca_file=str(authority.cert))
        tracer.start("span", None, {}).end()
        tracer.close()
    assert [sent.name for sent in receiver.spans] == ["span"]


@pytest.mark.parametrize(
    "endpoint", ["localhost", "http://a:1", "a:0", "a:65536", ":4317", "a b:1"]
)
def test_an_endpoint_that_is_none_stops_the_start(endpoint):
    with pytest.raises(SettingsError, match=r"^TEST_TRACES_ENDPOINT: must be host:port .* got '"):
        check_tracing(Settings(endpoint), "TEST_")


def test_keys_without_an_endpoint_stop_the_start():
    with pytest.raises(SettingsError, match="TEST_TRACES_ENDPOINT: must be set where"):
        check_tracing(Settings("", traces_ca_file="/ca.crt"), "TEST_")


def test_keys_that_cannot_be_read_stop_the_start(tmp_path):
    with pytest.raises(SettingsError, match=r"^TEST_TRACES_CA_FILE: "):
        check_tracing(Settings("a:1", traces_ca_file=str(tmp_path / "none")), "TEST_")


@pytest.mark.parametrize("name", ["opentelemetry.sdk", "opentelemetry.exporter"])
def test_an_endpoint_without_the_extra_stops_the_start(name, monkeypatch):
    hidden = [key for key in sys.modules if key.startswith(name) or key == "svc_common.otel"]
    for key in hidden:
        monkeypatch.delitem(sys.modules, key)
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    rule = (
        r"^TEST_TRACES_ENDPOINT: needs OpenTelemetry: pip install ./client '.\[tracing\]'.*, open"
    )
    with pytest.raises(SettingsError, match=rule):
        check_tracing(Settings("a:1"), "TEST_")


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported():
    """Of the services' own imports the linter knows; redis-py and FastAPI have some of theirs."""
    script = (
        "import sys, svc_common.server, svc_common.logs; from types import SimpleNamespace;"
        "from svc_common.tracing import check_tracing, open_tracer;"
        "settings = SimpleNamespace(traces_endpoint='', traces_ca_file='');"
        "check_tracing(settings, 'X_'); assert open_tracer(settings, 'X_', 's', '1', None) is None;"
        "print(*[n for n in sys.modules if n.startswith(('opentelemetry', 'svc_common.otel'))])"
    )
    printed = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert printed.split() == []
