"""Replies as the generating half writes them: one JSON object a line, one reply a line."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path


class ReplyFileError(Exception):
    """A reply file cannot be read; the message names file, line and rule."""


@dataclass(frozen=True, order=True)
class Setting:
    """What wrote a reply: a contender and its knobs; those it does not have are 0 or empty."""

    contender: str
    variant: str = ""  # conditioning of the reward model
    beta: float = 0.0
    k: int = 0
    n: int = 1  # replies drawn by best-of-n
    multi: str = ""  # two wishes as one `joined` prompt or as two `weights`

    @property
    def label(self) -> str:
        """Return a short name, such as "pad prompt b1 k10"."""
        parts = [self.contender, self.variant]
        parts += [f"b{self.beta:g} k{self.k}"] if self.k else []
        parts += [f"n{self.n}"] if self.n > 1 else []
        parts += [self.multi]
        return " ".join(part for part in parts if part)

    @property
    def base(self) -> str:
        """Return the contender that this one is measured against: the same model, unguided."""
        return "base-small" if self.contender == "pad-small-base" else "base"


@dataclass(frozen=True)
class Reply:
    """One reply and what it cost."""

    contender: str
    variant: str
    beta: float
    k: int
    n: int
    user: str
    directions: tuple[str, ...]  # wishes that the scorers can judge, such as "brevity:short"
    preference: str
    phrase_seen: bool
    prompt_id: str
    text: str
    num_tokens: int
    ended: bool
    kl_per_token: float
    seconds: float
    model_tokens: int  # token-forwards of all models together
    multi: str = ""

    @property
    def setting(self) -> Setting:
        return Setting(self.contender, self.variant, self.beta, self.k, self.n, self.multi)


FIELDS = tuple(field.name for field in fields(Reply))
OPTIONAL = frozenset({"multi", "variant"})


def read_replies(paths: Iterable[Path]) -> list[Reply]:
    """Return the replies of all files, in the order of their names.

    Raises:
        ReplyFileError: a line is no JSON object or lacks a field.
    """
    replies = []
    for path in sorted(paths):
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                replies.append(_reply(line, f"{path}:{number}"))
    return replies


def _reply(line: str, where: str) -> Reply:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ReplyFileError(f"{where}: must be a JSON object: {error}") from error
    missing = [name for name in FIELDS if name not in row and name not in OPTIONAL]
    if missing:
        raise ReplyFileError(f"{where}: must have the fields {missing}")
    known = {name: row[name] for name in FIELDS if name in row}
    known.setdefault("variant", "")
    return Reply(**{**known, "directions": tuple(known["directions"])})


def settings_of(replies: Sequence[Reply]) -> list[Setting]:
    """Return the different settings, sorted."""
    return sorted({reply.setting for reply in replies})
