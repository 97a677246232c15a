"""Loss curves of a run."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.runner import read_losses

PLOT_FILE = "losses.png"
_SMOOTHED_SHARE = 0.05  # of a phase's steps, averaged for the line


def plot_losses(run_path: Path, phases: Sequence[str]) -> Path | None:
    """Draw the losses of the phases that ran, one panel each; None if none did."""
    curves = {name: read_losses(run_path / name) for name in phases}
    curves = {name: lines for name, lines in curves.items() if lines}
    if not curves:
        return None
    figure = Figure(figsize=(4.0 * len(curves), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (name, lines) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(1, len(curves), number)
        steps = [line["step"] for line in lines]
        losses = [line["loss"] for line in lines]
        axes.plot(steps, losses, color="0.8", linewidth=0.8, label="a step")
        axes.plot(steps, smoothed(losses), color="C0", label="running mean")
        axes.set_title(name)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss")
        axes.legend(frameon=False)
    path = run_path / PLOT_FILE
    figure.savefig(path, dpi=120)
    return path


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the running mean over the last few values."""
    width = max(1, round(len(values) * _SMOOTHED_SHARE))
    windows = [values[max(0, i + 1 - width) : i + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
