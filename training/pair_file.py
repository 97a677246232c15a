"""Read pair files: JSON Lines, gzip-compressed if the name ends in `.gz`, one pair a line.

    {"context": [{"role": "user", "content": "..."}, ...],
     "preference": "Be brief.", "chosen": "...", "rejected": "...",
     "labels": ["brevity:short"], "persona": "p01"}

- `context`: the conversation so far; roles are `user`, `assistant`, `system`, the last message is
  the user's. The names `speaker` and `text` are read as well.
- `preference`: what the user wishes, in words. The same two replies may stand in two rows under
  opposite preferences with opposite winners (a flip pair).
- `chosen`, `rejected`: two different replies; the preference ranks the first higher.
- `labels`, optional: what the preference is about, for the reading phase and for figures by label.
  `dims` of the demo data (`[{"dim": "brevity", "direction": "short"}]`) is read as labels.
- `persona`, optional: a name of the combination of wishes.

Other fields are ignored.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svc_common.preference_prompt import ChatMessage

ROLES = ("user", "assistant", "system")


class PairFileError(Exception):
    """A pair file cannot be used; the text names file, line, field, rule and value."""


@dataclass(frozen=True)
class Pair:
    """Two replies to one context, ranked under a stated preference."""

    context: tuple[ChatMessage, ...]
    preference: str
    chosen: str
    rejected: str
    labels: tuple[str, ...] = ()
    persona: str | None = None
    where: str = ""  # path and line

    @property
    def group(self) -> str:
        """The label that figures are reported by; `persona` for several wishes at once."""
        return self.labels[0] if len(self.labels) == 1 else "persona" if self.labels else ""


def read_pair_files(paths: Sequence[Path]) -> list[Pair]:
    """Return the pairs of some files, in order.

    Raises:
        PairFileError: a file or line is wrong, or there is no pair at all.
    """
    pairs = [pair for path in paths for pair in _read(path)]
    if not pairs:
        raise PairFileError(f"{', '.join(map(str, paths))}: must hold pairs, got none")
    return pairs


def _read(path: Path) -> Iterator[Pair]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parse(line, f"{path} line {number}")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise PairFileError(f"{path}: cannot be read: {error}") from error


def _parse(line: str, where: str) -> Pair:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise PairFileError(f"{where}: must be JSON: {error}") from error
    if not isinstance(row, dict):
        raise PairFileError(f"{where}: must be a JSON object, got {_short(row)}")
    pair = Pair(
        context=_context(row.get("context"), where),
        preference=_text(row.get("preference"), f"{where}: preference"),
        chosen=_text(row.get("chosen"), f"{where}: chosen"),
        rejected=_text(row.get("rejected"), f"{where}: rejected"),
        labels=_labels(row, where),
        persona=_persona(row.get("persona"), where),
        where=where,
    )
    if pair.chosen == pair.rejected:
        rule = "must differ from chosen"
        raise PairFileError(f"{where}: rejected: {rule}, got {_short(pair.rejected)} twice")
    return pair


def _context(value: Any, where: str) -> tuple[ChatMessage, ...]:
    if not isinstance(value, list) or not value:
        rule = "must be a non-empty list of messages"
        raise PairFileError(f"{where}: context: {rule}, got {_short(value)}")
    messages = tuple(_message(item, f"{where}: context[{i}]") for i, item in enumerate(value))
    if messages[-1].role != "user":
        rule = "must be of the user, as the replies answer it"
        raise PairFileError(
            f"{where}: context[{len(value) - 1}]: {rule}, got {messages[-1].role!r}"
        )
    return messages


def _message(value: Any, where: str) -> ChatMessage:
    if not isinstance(value, dict):
        raise PairFileError(f"{where}: must be an object, got {_short(value)}")
    role = value.get("role", value.get("speaker"))
    if role not in ROLES:
        raise PairFileError(f"{where}.role: must be one of {', '.join(ROLES)}, got {_short(role)}")
    return ChatMessage(role, _text(value.get("content", value.get("text")), f"{where}.content"))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise PairFileError(f"{where}: must be non-empty text, got {_short(value)}")
    _check_characters(value, where)
    return value


def _check_characters(text: str, where: str) -> None:
    """Refuse half of a surrogate pair, which JSON can write and UTF-8 and tokenizers cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        rule = f"must not hold a lone surrogate, has one at character {error.start}"
        raise PairFileError(f"{where}: {rule}, got {_short(text)}") from error


def _labels(row: dict[str, Any], where: str) -> tuple[str, ...]:
    labels = row.get("labels")
    if labels is None and "dims" in row:
        try:
            labels = ["{dim}:{direction}".format(**wish) for wish in row["dims"]]
        except (TypeError, KeyError) as error:
            rule = "must be objects with dim and direction"
            raise PairFileError(f"{where}: dims: {rule}, got {_short(row['dims'])}") from error
    if labels is None:
        return ()
    if not isinstance(labels, list) or not all(isinstance(x, str) and x for x in labels):
        raise PairFileError(f"{where}: labels: must be a list of texts, got {_short(labels)}")
    for label in labels:
        _check_characters(label, f"{where}: labels")
    return tuple(labels)


def _persona(value: Any, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise PairFileError(f"{where}: persona: must be text or null, got {_short(value)}")
    if value is not None:
        _check_characters(value, f"{where}: persona")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
