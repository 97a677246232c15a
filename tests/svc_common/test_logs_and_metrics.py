import io
import json
import logging

import jinja2
import pytest
import redis
from prometheus_client import generate_latest

from svc_common.errors import InvalidRequestError
from svc_common.logs import configure_logging
from svc_common.metrics import (
    BATCH_BUCKETS,
    FIRST_TOKEN_BUCKETS_S,
    RPC_BUCKETS_S,
    STEP_BUCKETS_S,
    TOKEN_BUCKETS_S,
    TOKEN_COUNT_BUCKETS,
    RpcMetrics,
    new_registry,
)


@pytest.fixture
def log_stream():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("info", stream)
    yield stream
    root.handlers[:], root.level = before


def test_line_has_event_and_values(log_stream):
    logging.getLogger("svc_common.b").info("step done", extra={"num_rows": 3, "event": "other"})
    logging.getLogger("svc_common.b").debug("not shown")
    (line,) = log_stream.getvalue().splitlines()
    fields = json.loads(line)
    assert fields.pop("time").endswith("+00:00")
    assert fields == {
        "level": "info",
        "logger": "svc_common.b",
        "event": "step done",
        "num_rows": 3,
    }


def test_traceback_stays_on_one_line(log_stream):
    try:
        {}["x"]
    except KeyError:
        logging.getLogger("a").exception("failed")
    (line,) = log_stream.getvalue().splitlines()
    assert "KeyError" in json.loads(line)["traceback"]


def logged(log_stream, error):
    def fail():
        raise error

    try:
        fail()
    except Exception:
        logging.getLogger("a").exception("failed")
    (line,) = log_stream.getvalue().splitlines()
    return json.loads(line)["traceback"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("canary"),
        KeyError("canary"),
        UnicodeEncodeError("ascii", "canary", 0, 1, "canary"),
        json.JSONDecodeError("canary", "canary", 0),
        redis.exceptions.ResponseError("unknown command, with args beginning with: 'canary'"),
        jinja2.TemplateError("canary"),
        InvalidRequestError("user_id: must be shorter, got 'canary'"),
        ExceptionGroup("canary", [ValueError("canary"), KeyError("canary")]),
    ],
)
def test_the_text_of_an_error_that_may_quote_a_caller_is_not_logged(log_stream, error):
    error.__cause__ = ValueError("canary of the cause")
    shown = logged(log_stream, error)
    assert "canary" not in shown
    assert type(error).__qualname__ in shown
    assert "ValueError" in shown
    assert "in logged" in shown  # where it happened


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), OSError(28, "No space left")])
def test_the_text_of_an_error_of_the_machine_is_logged(log_stream, error):
    assert str(error) in logged(log_stream, error)


def test_a_failed_task_is_named_without_its_error(log_stream):
    """asyncio logs `exception=ProfileNotFoundError("... got 'ann'")`."""
    logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: canary")
    (line,) = log_stream.getvalue().splitlines()
    assert json.loads(line)["event"] == "Task exception was never retrieved"


def test_libraries_are_heard_only_where_something_is_amiss(log_stream):
    logging.getLogger().setLevel("DEBUG")
    logging.getLogger("some.library").debug("canary")
    logging.getLogger("some.library").info("canary")
    logging.getLogger("some.library").warning("amiss")
    logging.getLogger("generator_svc.engine").debug("own")
    events = [json.loads(line)["event"] for line in log_stream.getvalue().splitlines()]
    assert events == ["amiss", "own"]


@pytest.mark.parametrize(
    "buckets",
    [
        STEP_BUCKETS_S,
        TOKEN_BUCKETS_S,
        FIRST_TOKEN_BUCKETS_S,
        RPC_BUCKETS_S,
        TOKEN_COUNT_BUCKETS,
        BATCH_BUCKETS,
    ],
)
def test_buckets_rise(buckets):
    assert list(buckets) == sorted(set(buckets))


def test_step_buckets_begin_at_a_tenth_of_a_millisecond():
    assert STEP_BUCKETS_S[0] == 0.0001
    assert max(STEP_BUCKETS_S) >= 0.1


def test_two_registries_live_in_one_process():
    for _ in range(2):
        registry = new_registry("generator", "1.2.3")
        RpcMetrics(registry).observe("pad.v1.S/M", "OK", 0.2)
        text = generate_latest(registry).decode()
        assert 'pad_build_info{python="3' in text
        assert 'pad_rpc_total{code="OK",method="pad.v1.S/M"} 1.0' in text
        assert 'pad_rpc_duration_seconds_bucket{le="0.3",method="pad.v1.S/M"} 1.0' in text
        assert "process_cpu_seconds_total" in text
