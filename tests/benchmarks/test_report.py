"""Bars say what was wanted and reached; a report can be read, parsed and shown in the README."""

import json
from pathlib import Path

from benchmarks.report import Bar, Report, log_entry, ratio_bar, value_bar
from benchmarks.rounds import Cell, Result
from docs.update_readme import newest_entry

CELL = Cell("30m", 1, 64)
PLAIN = Result(CELL, "plain", [{"step_ms": 10.0}, {"step_ms": 20.0}, {"step_ms": 10.0}])
PAD = Result(CELL, "pad", [{"step_ms": 12.0}, {"step_ms": 22.0}, {"step_ms": 30.0}])


def made_report() -> Report:
    bars = ratio_bar("pad / plain", 1.25, PAD, PLAIN)
    return Report("models", ["a note"], [PLAIN, PAD], bars)


def test_a_bar_is_met_by_the_median_of_the_ratios() -> None:
    [bar] = ratio_bar("pad / plain", 1.25, PAD, PLAIN)
    assert bar.values == (1.2, 1.1, 3.0)
    assert bar.measured == 1.2
    assert bar.is_reached
    [strict] = ratio_bar("pad / plain", 1.15, PAD, PLAIN)
    assert not strict.is_reached


def test_a_lower_bar_must_be_exceeded() -> None:
    assert Bar("x", 3.0, (3.0,), is_upper=False).is_reached
    assert not Bar("x", 3.0, (2.9,), is_upper=False).is_reached
    assert Bar("x", 3.0, (2.9,), is_upper=False).wanted == ">= 3"


def test_what_was_not_measured_has_no_bar() -> None:
    assert ratio_bar("x", 1.0, None, PLAIN) == []
    assert ratio_bar("x", 1.0, PLAIN, None) == []
    assert value_bar("x", 1.0, None, "step_ms") == []


def test_the_table_shows_wanted_measured_and_reached() -> None:
    text = made_report().markdown()
    assert "| pad / plain | <= 1.25 | 1.20 (1.10 .. 3.00) | yes |" in text
    assert "| 30m | 1 | 64 | plain | 10.00 (10.00 .. 20.00) |" in text
    assert "- a note" in text


def test_the_json_holds_every_round_and_what_is_needed_to_repeat_it(tmp_path: Path) -> None:
    path = made_report().save("python -m benchmarks", tmp_path / "results")
    values = json.loads(path.read_text())
    assert path.name == f"{values['date']}-models.json"
    assert values["command"] == "python -m benchmarks"
    assert values["hardware"]
    assert values["commit"]
    assert values["bars"][0]["values"] == [1.2, 1.1, 3.0]
    assert values["bars"][0]["reached"] is True
    assert values["results"][1]["step_ms"] == [12.0, 22.0, 30.0]


def test_the_newest_entry_of_the_log_is_the_whole_run() -> None:
    log = "# Benchmark log\n\n## 2020-01-01: old\n\nold\n"
    log += log_entry([made_report(), Report("paced")], "python -m benchmarks")
    log += log_entry([made_report()], "python -m benchmarks --quick")
    shown = newest_entry(log, "models")
    assert "- command: `python -m benchmarks`" in shown
    assert "### models" in shown
    assert "### paced" in shown
    assert "old" not in shown
