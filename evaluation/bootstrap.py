"""Cluster bootstrap: every figure uses the same resamples of prompts, so differences pair up."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
NUM_RESAMPLES = 1000


class Figure(TypedDict):
    """A value with its 95 % interval and the number of observations behind it.

    `low` and `high` are None where nothing can be resampled, all three where nothing was measured.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


class Resampler:
    """Draws prompts with replacement; draw 0 is the sample itself.

    A *draws* array holds a statistic of every draw, `[1 + R]`. Arithmetic on draws of one resampler
    gives the draws of differences and ratios, intervals included.

    Args:
        clusters: the distinct prompts, C of them, at least one.

    Attributes:
        weights: `[1 + R, C]`, how often each prompt is in each draw.
    """

    def __init__(
        self, clusters: Sequence[str], num_resamples: int = NUM_RESAMPLES, seed: int = 0
    ) -> None:
        self._index = {name: i for i, name in enumerate(clusters)}
        if len(self._index) != len(clusters) or not clusters:
            raise ValueError(f"clusters: must be distinct and at least one, got {len(clusters)}")
        size = len(clusters)
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(size, np.full(size, 1.0 / size), num_resamples)  # [R, C]
        self.weights: Array = np.concatenate([np.ones((1, size)), drawn.astype(np.float64)])

    def rows(self, clusters: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each cluster name, `[N]`."""
        return np.array([self._index[name] for name in clusters], dtype=np.int64)

    def sums(self, values: ArrayLike, rows: ArrayLike | None = None) -> Array:
        """Return the sum of `values` in every draw, `[1 + R, ...]`; nan counts as nothing.

        Args:
            values: `[N, ...]`, or `[C, ...]` in the order of the clusters without `rows`.
            rows: `[N]`, the cluster that each value belongs to.
        """
        known = np.nan_to_num(np.asarray(values, dtype=np.float64))
        if rows is None:
            return np.tensordot(self.weights, known, axes=1)
        totals = np.zeros((self.weights.shape[1], *known.shape[1:]))
        np.add.at(totals, np.asarray(rows), known)
        return np.tensordot(self.weights, totals, axes=1)

    def means(self, values: ArrayLike, rows: ArrayLike | None = None) -> Array:
        """Return the mean of the values that are not nan in every draw, `[1 + R, ...]`."""
        present = ~np.isnan(np.asarray(values, dtype=np.float64))
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.sums(values, rows) / self.sums(present, rows)


def figure(draws: Array, n: int, digits: int = 4) -> Figure:
    """Return the value of draw 0 and the percentile interval of the others.

    Args:
        draws: `[1 + R]`.
        n: observations behind the value.
    """
    if n == 0 or not np.isfinite(draws[0]):
        return Figure(value=None, low=None, high=None, n=n)
    value = round(float(draws[0]), digits)
    others = draws[1:][np.isfinite(draws[1:])]
    if n == 1 or not len(others):
        return Figure(value=value, low=None, high=None, n=n)
    low, high = np.percentile(others, [2.5, 97.5])
    return Figure(value=value, low=round(float(low), digits), high=round(float(high), digits), n=n)


def no_figure() -> Figure:
    """Return the figure of what was not measured."""
    return Figure(value=None, low=None, high=None, n=0)


def is_above(one: Figure, limit: float) -> bool:
    """Return whether the whole interval of `one` lies above `limit`."""
    return one["low"] is not None and one["low"] > limit


def is_below(one: Figure, limit: float) -> bool:
    """Return whether the whole interval of `one` lies below `limit`."""
    return one["high"] is not None and one["high"] < limit
