"""What guidance did to the text: shift, win rate, user-swap gap, cross-talk, joined wishes.

Every function returns *draws* (see `Resampler`): row 0 is the value, the rest its resamples.
Shifts and gaps are in units of the standard deviation of the base's replies on that attribute.
"""

import numpy as np

from evaluation.bootstrap import Array, Figure, figure, is_above
from evaluation.cells import Cell, Measured
from evaluation.records import Setting
from evaluation.scorers import DIMENSIONS, NEGATIVE, POSITIVE, UNTRAINED, sign
from training.wishes import DIRECTIONS

MIN_VARIANCE = 1e-9


def deviations(measured: Measured, cell: Cell, *, plain: bool = False) -> Array:
    """Return the standard deviation of each attribute, `[1 + R, 6]`."""
    values = cell.counts if plain else cell.scores
    return spread(measured, values)


def spread(measured: Measured, values: Array) -> Array:
    """Return the standard deviation of `values`, the same in every draw; nan if all are alike.

    It is a unit and not resampled: draws in which the base hardly varies would say nothing but how
    small their unit is.
    """
    first, second = measured.resampler.means(values), measured.resampler.means(values**2)
    variance = np.broadcast_to((second - first**2)[:1], first.shape)
    return np.sqrt(np.where(variance > MIN_VARIANCE, variance, np.nan))


def shifts(measured: Measured, setting: Setting, user: str, *, plain: bool = False) -> Array:
    """Return how far a user's replies lie from the base's on each attribute, `[1 + R, 6]`.

    In the base's standard deviations; only prompts that both answered count.
    """
    cell, base = measured.cells[setting, user], measured.base(setting)
    own, other = (cell.counts, base.counts) if plain else (cell.scores, base.scores)
    return measured.resampler.means(own - other) / deviations(measured, base, plain=plain)


def own_shift(measured: Measured, setting: Setting, user: str, direction: str) -> Array:
    """Return the shift of one wish's attribute, positive the way that was asked, `[1 + R]`."""
    column = DIMENSIONS.index(direction.split(":")[0])
    return sign(direction) * shifts(measured, setting, user)[:, column]


def raw_shift(measured: Measured, setting: Setting, user: str, direction: str) -> Array:
    """Return the same in the attribute's own unit, not turned by the wish's sign."""
    column = DIMENSIONS.index(direction.split(":")[0])
    cell, base = measured.cells[setting, user], measured.base(setting)
    return measured.resampler.means((cell.scores - base.scores)[:, column])


def win_rate(measured: Measured, setting: Setting, user: str, direction: str) -> Array:
    """Return how often a reply shows its wish more than the base's reply; ties half, `[1 + R]`."""
    column = DIMENSIONS.index(direction.split(":")[0])
    cell, base = measured.cells[setting, user], measured.base(setting)
    return measured.resampler.means(_wins(sign(direction) * (cell.scores - base.scores)[:, column]))


def _wins(differences: Array) -> Array:
    return np.where(np.isnan(differences), np.nan, 0.5 + 0.5 * np.sign(differences))


def swap_gap(
    measured: Measured, setting: Setting, dimension: str, prefix: str = ""
) -> Array | None:
    """Return the gap of one dimension, `[1 + R]`, or None where a side was not generated.

    The own user's score minus that of a stranger who wishes the opposite, on the same prompts.

    Args:
        prefix: of the user names, such as "unseen:".
    """
    more = measured.cell(setting, f"{prefix}{dimension}:{POSITIVE[dimension]}")
    less = measured.cell(setting, f"{prefix}{dimension}:{NEGATIVE[dimension]}")
    if more is None or less is None:
        return None
    column = DIMENSIONS.index(dimension)
    gap = measured.resampler.means((more.scores - less.scores)[:, column])
    return gap / deviations(measured, measured.base(setting))[:, column]


def mean_gap(measured: Measured, setting: Setting) -> Array | None:
    """Return the mean gap over all six dimensions, `[1 + R]`, or None where one is missing."""
    gaps = [swap_gap(measured, setting, dimension) for dimension in DIMENSIONS]
    known = [gap for gap in gaps if gap is not None]
    return np.mean(known, axis=0) if len(known) == len(gaps) else None


def single_users(measured: Measured, setting: Setting) -> list[str]:
    """Return the twelve single-preference users that a setting has replies for."""
    return [name for name in DIRECTIONS if (setting, name) in measured.cells]


def directions_table(
    measured: Measured, setting: Setting, prefix: str = ""
) -> dict[str, dict[str, Figure]]:
    """Return shift, raw shift, plain-count shift and win rate of every single preference."""
    table = {}
    for name in DIRECTIONS:
        user = prefix + name
        cell = measured.cell(setting, user)
        if cell is None:
            continue
        size = cell.num_replies
        column = DIMENSIONS.index(name.split(":")[0])
        plain = sign(name) * shifts(measured, setting, user, plain=True)[:, column]
        table[name] = {
            "shift": figure(own_shift(measured, setting, user, name), size),
            "raw_shift": figure(raw_shift(measured, setting, user, name), size),
            "plain_shift": figure(plain, size),
            "win_rate": figure(win_rate(measured, setting, user, name), size),
        }
    return table


def moved_right(table: dict[str, dict[str, Figure]], name: str = "shift") -> int:
    """Count the preferences whose interval lies wholly on the side that was asked for."""
    return sum(is_above(row[name], 0.0) for row in table.values())


def cross_talk(measured: Measured, setting: Setting) -> dict[str, dict[str, Figure]]:
    """Return the shift of all six attributes under each single preference."""
    table = {}
    for name in single_users(measured, setting):
        moved = shifts(measured, setting, name)
        size = measured.cells[setting, name].num_replies
        table[name] = {
            dimension: figure(moved[:, i], size) for i, dimension in enumerate(DIMENSIONS)
        }
    return table


def wishes_table(measured: Measured, setting: Setting) -> dict[str, dict[str, Figure]]:
    """Return the own shift of every wish of every user with two wishes."""
    return {
        user: {
            wish: figure(
                own_shift(measured, setting, user, wish),
                measured.cells[setting, user].num_replies,
            )
            for wish in measured.cells[setting, user].directions
        }
        for user in measured.users(setting)
        if len(measured.cells[setting, user].directions) > 1
    }


def both_moved(table: dict[str, dict[str, Figure]], prefix: str) -> tuple[int, int, int]:
    """Count users of `prefix`: all wishes moved right by value, by interval, and users in all."""
    rows = [list(row.values()) for user, row in table.items() if user.startswith(prefix)]
    by_value = sum(all((one["value"] or 0.0) > 0.0 for one in row) for row in rows)
    by_interval = sum(all(is_above(one, 0.0) for one in row) for row in rows)
    return by_value, by_interval, len(rows)


def untrained_table(measured: Measured, setting: Setting) -> dict[str, Figure]:
    """Return the shift of what each untrained wish asks for, in the base's deviations."""
    table = {}
    for name, (direction, measure) in UNTRAINED.items():
        cell = measured.cell(setting, f"untrained-{name}")
        if cell is None:
            continue
        base = measured.base(setting)
        own, other = (
            np.array([np.nan if text is None else measure(text) for text in one.texts])
            for one in (cell, base)
        )
        unit = np.nan_to_num(spread(measured, other), nan=1.0)  # the base never does it: raw
        moved = measured.resampler.means(own - other) / unit
        table[name] = figure(direction * moved, cell.num_replies)
    return table
