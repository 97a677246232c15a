import io
import json
import logging

import pytest
from prometheus_client import generate_latest

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
    logging.getLogger("a.b").info("step done", extra={"num_rows": 3, "event": "other"})
    logging.getLogger("a.b").debug("not shown")
    (line,) = log_stream.getvalue().splitlines()
    fields = json.loads(line)
    assert fields.pop("time").endswith("+00:00")
    assert fields == {"level": "info", "logger": "a.b", "event": "step done", "num_rows": 3}


def test_traceback_stays_on_one_line(log_stream):
    try:
        {}["x"]
    except KeyError:
        logging.getLogger("a").exception("failed")
    (line,) = log_stream.getvalue().splitlines()
    assert "KeyError" in json.loads(line)["traceback"]


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
