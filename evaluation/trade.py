"""What the gain costs: fluency, KL to the base, tokens computed; and gains at matched price.

The gain of a setting is its mean user-swap gap over the six dimensions.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from evaluation.bootstrap import Array, Figure, figure, no_figure
from evaluation.cells import BASE_USER, Cell, Measured
from evaluation.fluency import distinct
from evaluation.records import Setting
from evaluation.text_metrics import mean_gap, single_users


class Match(TypedDict):
    """PAD against another contender where both pay the same."""

    other: str
    price: float | None  # KL per token in nats, or token-forwards relative to the base
    other_gain: Figure
    pad_gain: Figure
    difference: Figure  # PAD's gain minus the other's
    within: bool  # PAD's settings reach that price; if not, its nearest setting is used
    note: str


def judged_cells(measured: Measured, setting: Setting) -> list[Cell]:
    """Return the cells that price a setting: its single preferences, or all it has."""
    users = single_users(measured, setting) or measured.users(setting)
    return [measured.cells[setting, user] for user in users]


def base_beside(measured: Measured, setting: Setting) -> Cell:
    """Return the base's replies to the prompts that `setting` answered."""
    rows = np.any([cell.is_there for cell in judged_cells(measured, setting)], axis=0)
    return measured.base(setting).only(rows)


def _total(measured: Measured, cells: Sequence[Cell], name: str, present: str = "") -> Array:
    """Return the sum of a number over all cells, in every draw."""
    values = [cell.numbers[name] for cell in cells]
    if present:
        known = [~np.isnan(cell.numbers[present]) for cell in cells]
        values = [np.where(mask, value, np.nan) for mask, value in zip(known, values, strict=True)]
    return measured.resampler.sums(np.nansum(values, axis=0))


def _per_token(measured: Measured, cells: Sequence[Cell], name: str) -> Array:
    return _total(measured, cells, name) / np.maximum(_total(measured, cells, "tokens"), 1.0)


def perplexity(measured: Measured, cells: Sequence[Cell]) -> Array:
    """Return exp of the mean loss a token under the judge, in every draw."""
    tokens = _total(measured, cells, "judged_tokens", "nll")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.exp(_total(measured, cells, "nll") / tokens)


def kl_per_token(measured: Measured, setting: Setting) -> Array:
    """Return the KL to the base a token, weighted by reply length, in every draw."""
    cells = judged_cells(measured, setting)
    weighted = [cell.numbers["kl"] * cell.numbers["tokens"] for cell in cells]
    total = measured.resampler.sums(np.nansum(weighted, axis=0))
    return total / np.maximum(_total(measured, cells, "tokens"), 1.0)


def relative_cost(measured: Measured, setting: Setting, name: str = "model_tokens") -> Array:
    """Return token-forwards (or seconds) a reply token, relative to the base, in every draw."""
    base = _per_token(measured, [base_beside(measured, setting)], name)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _per_token(measured, judged_cells(measured, setting), name) / base


def fluency_table(measured: Measured, setting: Setting) -> dict[str, Figure]:
    """Return perplexity and its ratio to the base, distinct-1 and -2, share of proper ends."""
    cells, base = judged_cells(measured, setting), [base_beside(measured, setting)]
    size = sum(cell.num_replies for cell in cells)
    own = perplexity(measured, cells)
    ends = [cell.numbers["ends_properly"] for cell in cells]
    present = [(~np.isnan(value)).astype(float) for value in ends]
    share = measured.resampler.sums(np.nansum(ends, axis=0)) / np.maximum(
        measured.resampler.sums(np.sum(present, axis=0)), 1.0
    )
    words = _mean_tokens(measured, cells)
    is_judge_itself = setting.base != BASE_USER
    return {
        "perplexity": no_figure() if is_judge_itself else figure(own, size),
        "perplexity_ratio": (
            no_figure() if is_judge_itself else figure(own / perplexity(measured, base), size)
        ),
        "distinct_1": distinct([cell.texts for cell in cells], 1),
        "distinct_2": distinct([cell.texts for cell in cells], 2),
        "ends_properly": figure(share, size),
        "tokens": figure(words, size),
    }


def _mean_tokens(measured: Measured, cells: Sequence[Cell]) -> Array:
    present = [(~np.isnan(cell.numbers["tokens"])).astype(float) for cell in cells]
    count = measured.resampler.sums(np.sum(present, axis=0))
    return _total(measured, cells, "tokens") / np.maximum(count, 1.0)


def price_table(measured: Measured, setting: Setting) -> dict[str, Figure]:
    """Return KL a token and the two relative costs."""
    size = sum(cell.num_replies for cell in judged_cells(measured, setting))
    return {
        "kl_per_token": figure(kl_per_token(measured, setting), size),
        "relative_tokens": figure(relative_cost(measured, setting), size),
        "relative_seconds": figure(relative_cost(measured, setting, "seconds"), size),
    }


def at_price(prices: Array, gains: Array, wanted: Array) -> Array:
    """Interpolate a curve in every draw; beyond its ends, the nearest end.

    Between two settings the line is straight, and so below a curve that flattens as it rises.

    Args:
        prices: `[S, 1 + R]` of the curve's settings; `gains` likewise.
        wanted: `[1 + R]`.
    """
    result = np.empty_like(wanted)
    for draw in range(len(wanted)):
        order = np.argsort(prices[:, draw], kind="stable")
        result[draw] = np.interp(wanted[draw], prices[order, draw], gains[order, draw])
    return result


def match_kl(measured: Measured, pad: Sequence[Setting], other: Setting) -> Match | None:
    """Compare PAD, interpolated over beta, with another contender at that one's KL a token.

    Only prompts that all of them answered count. PAD's curve begins at beta 0: no KL, no gain.
    None where a gain is not known.
    """
    measured = measured.within([*pad, other])
    known = [(s, gain) for s in pad if (gain := mean_gap(measured, s)) is not None]
    own = mean_gap(measured, other)
    if not known or own is None:
        return None
    zeros = np.zeros_like(own)
    prices = np.stack([zeros, *(kl_per_token(measured, s) for s, _ in known)])
    gains = np.stack([zeros, *(gain for _, gain in known)])
    wanted = kl_per_token(measured, other)
    within = bool(wanted[0] <= prices[:, 0].max())
    reached = at_price(prices, gains, wanted)
    notes = [] if within else ["PAD's largest beta spends less KL; compared there"]
    if other.contender == "best-of-n":
        notes.append("its KL is an upper bound, against the sampler that it draws from")
    note = "; ".join(notes)
    return _match(measured, other, other.label, wanted, own, reached, within, note)


def match_cost(measured: Measured, pad: Setting, others: Sequence[Setting]) -> Match | None:
    """Compare PAD with best-of-n, interpolated over n, at PAD's token-forwards a reply token.

    Args:
        others: settings of one contender that differ in what they spend; its curve begins at the
            base, cost 1 and no gain.
    """
    measured = measured.within([pad, *others])
    known = [(s, gain) for s in others if (gain := mean_gap(measured, s)) is not None]
    own = mean_gap(measured, pad)
    if not known or own is None:
        return None
    zeros = np.zeros_like(own)
    prices = np.stack([zeros + 1.0, *(relative_cost(measured, s) for s, _ in known)])
    gains = np.stack([zeros, *(gain for _, gain in known)])
    wanted = relative_cost(measured, pad)
    reached = at_price(prices, gains, wanted)
    within = bool(wanted[0] <= prices[:, 0].max())
    note = "" if within else "the other's dearest setting costs less; compared there"
    name = f"{known[-1][0].contender} by n"
    return _match(measured, known[-1][0], name, wanted, reached, own, within, note)


def _match(
    measured: Measured,
    other: Setting,
    name: str,
    price: Array,
    other_gain: Array,
    pad_gain: Array,
    within: bool,
    note: str,
) -> Match:
    size = sum(cell.num_replies for cell in judged_cells(measured, other))
    return Match(
        other=name,
        price=round(float(price[0]), 4),
        other_gain=figure(other_gain, size),
        pad_gain=figure(pad_gain, size),
        difference=figure(pad_gain - other_gain, size),
        within=within,
        note=note,
    )


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return which (price, gain) points no other beats: cheaper at no less gain, or the reverse."""
    return [
        not any(
            (other[0] <= point[0] and other[1] >= point[1]) and other != point for other in points
        )
        for point in points
    ]
