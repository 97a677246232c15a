"""Everything measured, as one dictionary: what the report shows and scripts read.

Keys (a *figure* is {"value", "low", "high", "n"}; a *label* is `Setting.label`):

- `about`: prompts, resamples, seed, `main` (label of the main setting), quick;
- `scorers.validity`: dimension -> {"independent", "plain"}: share of dev pairs whose chosen reply
  the scorer puts on the wished side; `scorers.secondary` likewise for further measures;
- `pairs`: variant (`prompt`, `value`, `vector`, `both`, `prompted base`) ->
  `rm` / `score` / `policy` (the last two by beta) -> `sum` / `mean` -> group -> figure, and
  `shuffled`, the same under another pair's preference. Groups: `single`, `seen_phrasings`,
  `unseen_phrasings`, `personas`, `unseen_personas`, and each direction;
- `text`: label -> `setting`, `gain` (figure), `gaps` (dimension -> figure), `directions` and
  `unseen_directions` (direction -> `shift`, `raw_shift`, `plain_shift`, `win_rate`), `moved_right`,
  `win_rate`, `cross_talk` (direction -> dimension -> figure), `wishes` (user -> wish -> figure),
  `untrained` (name -> figure), `fluency`, `price`;
- `matched_kl`, `matched_cost`: lists of `Match`;
- `sweep`: beta x k of the main variant: label, beta, k, gain, kl_per_token, perplexity_ratio,
  ends_properly, `on_front_kl`, `on_front_perplexity`;
- `examples`: prompts with replies side by side;
- `claims`: claim, verdict (`holds`, `does not hold`, `not tested here`), evidence;
- `bar`: what, wanted, got, passed (None: not measured).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from evaluation.bootstrap import Array, Figure, Resampler, figure, no_figure
from evaluation.cells import Measured
from evaluation.records import Setting
from evaluation.scorers import DIMENSIONS, SECONDARY, Scorers, count_table, sign
from evaluation.text_metrics import (
    cross_talk,
    directions_table,
    mean_gap,
    moved_right,
    single_users,
    swap_gap,
    untrained_table,
    win_rate,
    wishes_table,
)
from evaluation.trade import (
    fluency_table,
    judged_cells,
    match_cost,
    match_kl,
    pareto,
    price_table,
)
from training.pair_file import Pair

UNSEEN_PREFIX = "unseen:"
MATCHED = ("prompt", "in-context", "best-of-n", "theta", "user-lora")


def validity(scorers: Scorers, pairs: Sequence[Pair], resamples: int) -> dict[str, Any]:
    """Return how often each scorer and each plain count agrees with the pairs about its dimension.

    Args:
        pairs: those with one label are used.
    """
    single = [pair for pair in pairs if len(pair.labels) == 1]
    chosen, rejected = [pair.chosen for pair in single], [pair.rejected for pair in single]
    names = [pair.labels[0] for pair in single]
    signs = np.array([sign(name) for name in names])
    resampler = Resampler([str(i) for i in range(len(single))], resamples)

    def agreement(differences: Array, dimension: str) -> Figure:
        about = np.array([name.split(":")[0] == dimension for name in names])
        right = np.where(about, 0.5 + 0.5 * np.sign(signs * differences), np.nan)
        return figure(resampler.means(right), int(about.sum()))

    own = scorers.table(chosen) - scorers.table(rejected)
    plain = count_table(chosen) - count_table(rejected)
    further = {
        name: np.array([measure(a) - measure(b) for a, b in zip(chosen, rejected, strict=True)])
        for name, measure in SECONDARY.items()
    }
    return {
        "validity": {
            name: {"independent": agreement(own[:, i], name), "plain": agreement(plain[:, i], name)}
            for i, name in enumerate(DIMENSIONS)
        },
        "secondary": {name: agreement(values, "register") for name, values in further.items()},
    }


def text_entry(measured: Measured, setting: Setting) -> dict[str, Any]:
    """Return everything measured on the replies of one setting."""
    size = sum(cell.num_replies for cell in judged_cells(measured, setting))
    gain = mean_gap(measured, setting)
    table = directions_table(measured, setting)
    unseen = directions_table(measured, setting, UNSEEN_PREFIX)
    users = single_users(measured, setting)
    rates = [win_rate(measured, setting, user, user) for user in users]
    gaps = {name: swap_gap(measured, setting, name) for name in DIMENSIONS}
    return {
        "setting": asdict(setting),
        "gain": no_figure() if gain is None else figure(gain, size),
        "gaps": {name: figure(gap, size) for name, gap in gaps.items() if gap is not None},
        "directions": table,
        "unseen_directions": unseen,
        "moved_right": moved_right(table),
        "moved_right_plain": moved_right(table, "plain_shift"),
        "win_rate": figure(np.mean(rates, axis=0), size) if rates else no_figure(),
        "cross_talk": cross_talk(measured, setting),
        "wishes": wishes_table(measured, setting),
        "untrained": untrained_table(measured, setting),
        "fluency": fluency_table(measured, setting),
        "price": price_table(measured, setting),
    }


def text_table(measured: Measured) -> dict[str, dict[str, Any]]:
    """Return the entries of all settings whose base was generated, by label."""
    return {
        setting.label: text_entry(measured, setting)
        for setting in measured.settings
        if (Setting(setting.base), "base") in measured.cells
    }


def pad_curve(measured: Measured, main: Setting) -> list[Setting]:
    """Return the settings that differ from the main one in beta alone."""
    return [one for one in measured.settings if replace(one, beta=main.beta) == main]


def matched_kl(measured: Measured, main: Setting) -> list[Any]:
    """Compare PAD with every other contender at that one's KL."""
    curve = pad_curve(measured, main)
    others = [one for name in MATCHED for one in measured.find(name) if not one.multi]
    matches = [match_kl(measured, curve, other) for other in others]
    return [match for match in matches if match is not None]


def matched_cost(measured: Measured, main: Setting) -> list[Any]:
    """Compare PAD at its own cost with best-of-n, which can spend as much."""
    match = match_cost(measured, main, [one for one in measured.find("best-of-n") if not one.multi])
    return [] if match is None else [match]


def sweep_table(measured: Measured, main: Setting, text: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the beta x k settings of the main variant and which of them no other beats."""
    settings = [
        one
        for one in measured.settings
        if replace(one, beta=main.beta, k=main.k) == main and text[one.label]["gain"]["n"]
    ]
    rows = []
    for one in settings:
        entry = text[one.label]
        rows.append(
            {
                "label": one.label,
                "beta": one.beta,
                "k": one.k,
                "gain": entry["gain"],
                "kl_per_token": entry["price"]["kl_per_token"],
                "perplexity_ratio": entry["fluency"]["perplexity_ratio"],
                "ends_properly": entry["fluency"]["ends_properly"],
            }
        )
    rows = [row for row in rows if row["gain"]["value"] is not None]
    for name, price in (("kl", "kl_per_token"), ("perplexity", "perplexity_ratio")):
        points = [(row[price]["value"] or 0.0, row["gain"]["value"]) for row in rows]
        for row, best in zip(rows, pareto(points), strict=True):
            row[f"on_front_{name}"] = best
    return rows
