"""Replies and their scores, arranged so that everything on one prompt stands in one row."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from evaluation.bootstrap import Array, Resampler
from evaluation.records import Reply, Setting, settings_of

BASE_USER = "base"


@dataclass(frozen=True)
class Cell:
    """One user's replies under one setting; row p belongs to prompt p, nan where there is none."""

    scores: Array  # [P, 6]
    counts: Array  # [P, 6] plain counts
    numbers: dict[str, Array]  # [P] each: see NUMBERS
    texts: tuple[str | None, ...]  # P
    directions: tuple[str, ...]
    preference: str
    phrase_seen: bool

    @property
    def is_there(self) -> NDArray[np.bool_]:
        """Which prompts have a reply, `[P]`."""
        return ~np.isnan(self.scores[:, 0])

    @property
    def num_replies(self) -> int:
        return int(self.is_there.sum())

    def only(self, rows: NDArray[np.bool_]) -> "Cell":
        """Return the cell without the replies to prompts outside `rows`, `[P]`."""
        return replace(
            self,
            scores=np.where(rows[:, None], self.scores, np.nan),
            counts=np.where(rows[:, None], self.counts, np.nan),
            numbers={name: np.where(rows, one, np.nan) for name, one in self.numbers.items()},
            texts=tuple(
                text if kept else None for text, kept in zip(self.texts, rows, strict=True)
            ),
        )


NUMBERS = ("tokens", "kl", "seconds", "model_tokens", "ends_properly", "nll", "judged_tokens")


@dataclass(frozen=True)
class Measured:
    """Every cell, by setting and user, with one resampler of the prompts they share."""

    prompt_ids: tuple[str, ...]
    resampler: Resampler
    cells: dict[tuple[Setting, str], Cell]
    settings: tuple[Setting, ...] = field(default=())

    def cell(self, setting: Setting, user: str) -> Cell | None:
        """Return one cell, or None where nothing was generated for it."""
        return self.cells.get((setting, user))

    def base(self, setting: Setting) -> Cell:
        """Return the unguided replies that `setting` is measured against.

        Raises:
            KeyError: they were not generated.
        """
        return self.cells[Setting(setting.base), BASE_USER]

    def within(self, settings: Sequence[Setting]) -> "Measured":
        """Return the same with nothing but the prompts that every one of `settings` answered.

        The base's replies stay, as its deviations are the unit of all shifts.
        """
        shared = np.ones(len(self.prompt_ids), dtype=np.bool_)  # [P]
        for setting in settings:
            own = [cell.is_there for (other, _), cell in self.cells.items() if other == setting]
            shared &= np.any(own, axis=0)
        cells = {
            key: cell if key[1] == BASE_USER else cell.only(shared)
            for key, cell in self.cells.items()
        }
        return replace(self, cells=cells)

    def users(self, setting: Setting) -> list[str]:
        """Return the users of a setting, sorted."""
        return sorted(user for other, user in self.cells if other == setting)

    def find(self, contender: str) -> list[Setting]:
        """Return the settings of a contender, sorted."""
        return [setting for setting in self.settings if setting.contender == contender]


def ends_properly(text: str, ended: bool) -> bool:
    """Return whether a reply came to its end mark behind a full stop, `!`, `?` or closing quote."""
    return ended and text.rstrip().endswith((".", "!", "?", '."', '!"', '?"', ".)"))


def arrange(
    replies: Sequence[Reply],
    scores: Array,
    counts: Array,
    nll: Array,
    num_resamples: int,
    seed: int,
) -> Measured:
    """Put replies and their measures into cells.

    Args:
        scores: `[N, 6]` of the replies; `counts` likewise.
        nll: `[N, 2]`: summed negative log-likelihood under the judge, and tokens judged.

    Raises:
        ValueError: two replies of one setting, user and prompt.
    """
    prompt_ids = tuple(sorted({reply.prompt_id for reply in replies}))
    row_of = {name: row for row, name in enumerate(prompt_ids)}
    groups: dict[tuple[Setting, str], list[int]] = {}
    for i, reply in enumerate(replies):
        groups.setdefault((reply.setting, reply.user), []).append(i)
    cells = {}
    for key, members in groups.items():
        rows = np.array([row_of[replies[i].prompt_id] for i in members])
        if len(set(rows.tolist())) != len(rows):
            raise ValueError(f"replies: {key[0].label}, user {key[1]}: a prompt has two")
        cells[key] = _cell(
            [replies[i] for i in members],
            rows,
            len(prompt_ids),
            scores[members],
            counts[members],
            nll[members],
        )
    return Measured(
        prompt_ids,
        Resampler(prompt_ids, num_resamples, seed),
        cells,
        tuple(settings_of(replies)),
    )


def _cell(
    replies: list[Reply],
    rows: NDArray[np.int64],
    size: int,
    scores: Array,
    counts: Array,
    nll: Array,
) -> Cell:
    def spread(values: Array) -> Array:
        full = np.full((size, *values.shape[1:]), np.nan)
        full[rows] = values
        return full

    texts: list[str | None] = [None] * size
    for row, reply in zip(rows.tolist(), replies, strict=True):
        texts[row] = reply.text
    numbers = [
        (r.num_tokens, r.kl_per_token, r.seconds, r.model_tokens, ends_properly(r.text, r.ended))
        for r in replies
    ]
    columns = spread(np.concatenate([np.array(numbers, dtype=np.float64), nll], axis=1))  # [P, 7]
    return Cell(
        spread(scores),
        spread(counts),
        {name: columns[:, i] for i, name in enumerate(NUMBERS)},
        tuple(texts),
        replies[0].directions,
        replies[0].preference,
        replies[0].phrase_seen,
    )
