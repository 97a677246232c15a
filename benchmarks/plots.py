"""Small pictures of what a suite found."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import Report
from benchmarks.rounds import Cell, Result, spread

mpl.use("Agg")  # no display
SIZE = (6.0, 3.6)  # inches
DPI = 90


def save_plots(report: Report, folder: Path) -> list[Path]:
    """Draw what there is to be seen of a suite; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in _PLOTS.get(report.suite, {}).items():
        figure = Figure(SIZE, layout="constrained")
        axes = figure.subplots()
        draw(axes, report)
        path = folder / f"{report.suite}-{name}.png"
        figure.savefig(path, dpi=DPI)
        paths.append(path)
    return paths


def _lines(
    axes: Axes,
    results: list[Result],
    place: Callable[[Cell], int],
    quantity: str,
) -> None:
    """Draw one line a contender: medians, with bars from least to most."""
    for name in dict.fromkeys(result.contender for result in results):
        own = sorted((r for r in results if r.contender == name), key=lambda r: place(r.cell))
        spreads = [spread(result.values(quantity)) for result in own]
        middles = [s.median for s in spreads]
        below = [s.median - s.least for s in spreads]
        above = [s.most - s.median for s in spreads]
        places = [place(result.cell) for result in own]
        axes.errorbar(places, middles, yerr=[below, above], marker="o", capsize=2, label=name)
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


def _with(report: Report, quantity: str) -> list[Result]:
    return [result for result in report.results if quantity in result.quantities]


def _models_by_batch(axes: Axes, report: Report) -> None:
    found = _with(report, "first_token_ms")
    model = "30m" if any(r.cell.model == "30m" for r in found) else found[0].cell.model
    shortest = min(r.cell.prompt for r in found if r.cell.model == model)
    cells = [r for r in found if (r.cell.model, r.cell.prompt) == (model, shortest)]
    _lines(axes, cells, lambda cell: cell.batch, "step_ms")
    axes.set(xscale="log", yscale="log", xlabel="answers at once", ylabel="ms per step")
    axes.set_title(f"{model}, prompt {shortest}")


def _models_by_prompt(axes: Axes, report: Report) -> None:
    found = _with(report, "step_ms")
    model = "30m" if any(r.cell.model == "30m" for r in found) else found[0].cell.model
    cells = [r for r in found if (r.cell.model, r.cell.batch) == (model, 1)]
    _lines(axes, cells, lambda cell: cell.prompt, "step_ms")
    axes.set(xscale="log", yscale="log", xlabel="tokens of the prompt", ylabel="ms per step")
    axes.set_title(f"{model}, one answer")


def _paced(quantity: str, title: str) -> Callable[[Axes, Report], None]:
    def draw(axes: Axes, report: Report) -> None:
        first = report.results[0].cell.model
        cells = [r for r in report.results if r.cell.model == first]
        _lines(axes, cells, lambda cell: cell.batch, quantity)
        axes.set(xscale="log", xlabel="answers at once", ylabel="ms", title=f"{title}, {first}")

    return draw


def _scaling(axes: Axes, report: Report) -> None:
    for kind in ("replicas", "generators"):
        own = [r for r in report.results if r.contender.endswith(kind)]
        numbers = [int(r.contender.split()[0]) for r in own]
        rates = [spread(r.values("tokens_per_s")).median for r in own]
        axes.plot(numbers, [rate / rates[0] for rate in rates], marker="o", label=kind)
    axes.plot(numbers := [1, 16], numbers, color="grey", linestyle=":", label="proportional")
    axes.set(xscale="log", yscale="log", xlabel="how many", ylabel="tokens/s, times those of one")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


def _long(axes: Axes, report: Report) -> None:
    _lines(axes, report.results, lambda cell: cell.prompt, "step_ms")
    axes.set(xlabel="tokens already generated", ylabel="ms per step", ylim=(0, None))


def _memory(axes: Axes, report: Report) -> None:
    cells = [r for r in report.results if r.contender.startswith("RSS")]
    _lines(axes, cells, lambda cell: cell.prompt, "MiB")
    axes.set(xlabel="requests done", ylabel="MiB", ylim=(0, None))


_PLOTS: dict[str, dict[str, Callable[[Axes, Report], None]]] = {
    "models": {"batch": _models_by_batch, "prompt": _models_by_prompt},
    "paced": {
        "overhead-p50": _paced("overhead_p50_ms", "per-step cost beyond the pace, p50"),
        "overhead-p99": _paced("overhead_p99_ms", "per-step cost beyond the pace, p99"),
    },
    "scaling": {"how-many": _scaling},
    "long": {"step": _long},
    "memory": {"rss": _memory},
}
