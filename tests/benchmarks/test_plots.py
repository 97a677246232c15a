"""What suites find can be drawn."""

from pathlib import Path

import pytest

from benchmarks.plots import save_plots
from benchmarks.report import Report
from benchmarks.rounds import Cell, Result

STEP = [{"step_ms": 1.0, "tokens_per_s": 5.0, "first_token_ms": 3.0}, {"step_ms": 2.0}]
PACED = {"overhead_p50_ms": 0.5, "overhead_p99_ms": 2.0}


@pytest.mark.parametrize(
    ("suite", "results", "names"),
    [
        (
            "models",
            [Result(Cell("tiny", batch, 64), "pad", STEP) for batch in (1, 4)],
            ["models-batch", "models-prompt"],
        ),
        (
            "paced",
            [Result(Cell("paced 5 ms", batch, 32), "pad", [PACED]) for batch in (1, 4)],
            ["paced-overhead-p50", "paced-overhead-p99"],
        ),
        (
            "scaling",
            [
                Result(Cell("paced", n, 32), f"{n} {kind}", STEP[:1])
                for kind in ("replicas", "generators")
                for n in (1, 4)
            ],
            ["scaling-how-many"],
        ),
        ("long", [Result(Cell("tiny", 1, n), "pad", STEP) for n in (10, 20)], ["long-step"]),
        (
            "memory",
            [Result(Cell("tiny", 32, n), "RSS of generator", [{"MiB": 1.0}]) for n in (1, 2)],
            ["memory-rss"],
        ),
        ("flat", [Result(Cell("tiny", 1, 64), "pad", STEP)], []),
    ],
)
def test_every_suite_has_its_pictures(
    tmp_path: Path, suite: str, results: list[Result], names: list[str]
) -> None:
    paths = save_plots(Report(suite, results=results), tmp_path / "plots")
    assert [path.stem for path in paths] == names
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size < 100_000  # small enough to be committed
