"""The report's plots, as SVG text that stands in the page."""

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from evaluation.bootstrap import Figure
from evaluation.scorers import DIMENSIONS

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
}
Point = tuple[str, Figure, Figure]
"""Label, price and gain."""


def draw(name: str, size: tuple[float, float], paint: Callable[[Axes], None]) -> str:
    """Return the SVG of one pair of axes; the same input gives the same text.

    Args:
        name: makes the ids in the SVG its own.
        size: inches.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        canvas = Canvas(figsize=size, layout="constrained")
        paint(canvas.add_subplot())
        text = StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"^.*?(?=<svg)", "", text.getvalue(), count=1, flags=re.DOTALL)


def _value(one: Figure) -> float:
    return float("nan") if one["value"] is None else one["value"]


def _errors(figures: Sequence[Figure]) -> Any:
    """Return the lengths of both error bars, `[2, N]`, without any where there is no interval."""
    rows = [
        (0.0, 0.0)
        if one["value"] is None or one["low"] is None or one["high"] is None
        else (max(0.0, one["value"] - one["low"]), max(0.0, one["high"] - one["value"]))
        for one in figures
    ]
    return np.array(rows).T.reshape(2, -1)


def trade_off(
    name: str,
    curves: Mapping[str, Sequence[Point]],
    points: Sequence[Point],
    label: str,
) -> str:
    """Draw gain over a price: PAD's curves, one a K, and the other contenders as points."""

    def paint(axes: Axes) -> None:
        for curve, line in curves.items():
            line = sorted(line, key=lambda one: _value(one[1]))
            gains = [gain for _, _, gain in line]
            axes.errorbar(
                [_value(price) for _, price, _ in line],
                [_value(gain) for gain in gains],
                yerr=_errors(gains),
                marker="o",
                markersize=4,
                capsize=2,
                label=curve,
            )
            for beta, price, gain in line:
                axes.annotate(
                    beta,
                    (_value(price), _value(gain)),
                    textcoords="offset points",
                    xytext=(4, -10),
                    fontsize=8,
                )
        for i, (who, price, gain) in enumerate(points):
            axes.errorbar(
                [_value(price)],
                [_value(gain)],
                xerr=_errors([price]),
                yerr=_errors([gain]),
                marker="sD^vP*X<>"[i % 9],
                color=f"C{(i + len(curves)) % 10}",
                linestyle="none",
                capsize=2,
                label=who,
            )
        axes.set_xlabel(label)
        axes.set_ylabel("mean user-swap gap (sd of the base)")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)

    return draw(name, (9, 4.6), paint)


def bars(name: str, groups: Mapping[str, Mapping[str, Figure]], label: str) -> str:
    """Draw horizontal bars with intervals: for each row, one bar a group.

    Args:
        groups: contender -> row -> figure.
    """
    rows = list(dict.fromkeys(row for group in groups.values() for row in group))

    def paint(axes: Axes) -> None:
        width = 0.8 / max(1, len(groups))
        for i, (who, group) in enumerate(groups.items()):
            places = [y + i * width for y, row in enumerate(rows) if row in group]
            figures = [group[row] for row in rows if row in group]
            values = [_value(one) for one in figures]
            axes.barh(places, values, width, xerr=_errors(figures), label=who, ecolor="#444")
        axes.set_yticks([y + 0.4 - width / 2 for y in range(len(rows))], rows)
        axes.margins(y=0.01)
        axes.invert_yaxis()
        axes.axvline(0.0, color="#444", linewidth=0.8)
        axes.set_xlabel(label)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)

    return draw(name, (9, 1.2 + len(rows) * (0.22 + 0.13 * len(groups))), paint)


def heat_map(name: str, table: Mapping[str, Mapping[str, Figure]]) -> str:
    """Draw the cross-talk matrix: wishes down, attributes across."""
    rows = list(table)
    values = np.array([[_value(table[row][column]) for column in DIMENSIONS] for row in rows])

    def paint(axes: Axes) -> None:
        limit = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
        axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        axes.grid(visible=False)
        axes.set_xticks(range(len(DIMENSIONS)), DIMENSIONS)
        axes.set_yticks(range(len(rows)), rows)
        for y, x in np.ndindex(*values.shape):
            dark = abs(values[y, x]) > 0.6 * limit
            text = f"{values[y, x]:+.2f}"
            axes.text(x, y, text, ha="center", va="center", color="white" if dark else "black")

    return draw(name, (8, 1.0 + 0.36 * max(1, len(rows))), paint)


def accuracy_curves(name: str, curves: Mapping[str, Mapping[float, Figure]]) -> str:
    """Draw accuracies over beta with their intervals as bands.

    Args:
        curves: label -> beta -> figure.
    """

    def paint(axes: Axes) -> None:
        for label, line in curves.items():
            betas = sorted(line)
            values = np.array([_value(line[beta]) for beta in betas])
            low, high = _errors([line[beta] for beta in betas])
            axes.plot(betas, values, marker="o", markersize=4, label=label)
            axes.fill_between(betas, values - low, values + high, alpha=0.15)
        axes.axhline(0.5, color="#888", linewidth=0.8, linestyle="--")
        axes.set_xlabel("beta (guidance strength)")
        axes.set_ylabel("policy accuracy, mean a token")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)

    return draw(name, (9, 4.2), paint)
