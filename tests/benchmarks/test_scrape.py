"""Histograms of a service are read as it writes them."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from benchmarks.scrape import mean_ms_between, parse_totals
from generator_svc.metrics import GeneratorMetrics


def test_the_mean_between_two_readings_is_of_what_came_between() -> None:
    registry = CollectorRegistry()
    metrics = GeneratorMetrics(registry)
    metrics.phase("select", 1.0)
    metrics.settle()
    before = parse_totals(generate_latest(registry).decode())
    metrics.phase("select", 0.002)
    metrics.phase("select", 0.004)
    metrics.phase("emit", 0.5)
    metrics.settle()
    after = parse_totals(generate_latest(registry).decode())
    assert mean_ms_between(before, after, "select") == pytest.approx(3.0)
    assert mean_ms_between(before, after, "emit") == pytest.approx(500.0)
    assert mean_ms_between(before, after, "reward_wait") is None


def test_histograms_without_phase_go_by_their_name() -> None:
    registry = CollectorRegistry()
    metrics = GeneratorMetrics(registry)
    metrics.batch(4)
    metrics.settle()
    totals = parse_totals(generate_latest(registry).decode())
    assert totals["pad_step_batch_rows"] == (4.0, 1.0)
