"""Named dimensions of style with levels: readable names for wishes, from a file that all can edit.

A level is a name for a preference's text. What is sent to a server is the preference.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pad_client.errors import InvalidRequestError
from pad_client.types import Preference

MAX_DIMENSIONS = 50
MAX_LEVELS = 20
MAX_TEXT_CHARACTERS = 2000  # of a preference; see common.proto
MAX_WEIGHT = 10.0
# beta * (sum of weights) beyond which the bundled models write broken text: docs/concepts.md has
# the figures. Nothing is refused: commands and the playground say so.
MAX_STRENGTH = 1.5

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_NAME_RULE = "must be 1..32 of a-z 0-9 -, a letter or digit first"


@dataclass(frozen=True)
class Dimension:
    """A side of style; `levels` are the texts of its wishes, by name."""

    name: str
    about: str
    levels: Mapping[str, str]


@dataclass(frozen=True)
class Presets:
    """The dimensions of a file, by name."""

    dimensions: Mapping[str, Dimension]

    def preference(self, choice: str) -> Preference:
        """Return the preference that `DIMENSION=LEVEL` or `DIMENSION=LEVEL:WEIGHT` names.

        Raises:
            InvalidRequestError: It names none.
        """
        name, equals, rest = choice.partition("=")
        level, colon, number = rest.partition(":")
        if not equals:
            raise InvalidRequestError(f"set: must be DIMENSION=LEVEL[:WEIGHT], got {choice!r}")
        dimension = self.dimensions.get(name)
        if dimension is None:
            raise InvalidRequestError(f"set: must name one of {_or(self.dimensions)}, got {name!r}")
        if level not in dimension.levels:
            raise InvalidRequestError(f"{name}: must be {_or(dimension.levels)}, got {level!r}")
        return Preference(dimension.levels[level], _weight(name, number) if colon else 1.0)

    def preferences(self, choices: list[str]) -> list[Preference]:
        """Return the preferences that choices name, of which each has a dimension of its own.

        Raises:
            InvalidRequestError: One names none, or two have the same dimension.
        """
        names = [choice.partition("=")[0] for choice in choices]
        for name in names:
            if names.count(name) > 1:
                raise InvalidRequestError(f"{name}: must be set once, got {names.count(name)}")
        return [self.preference(choice) for choice in choices]

    def choice(self, text: str) -> str | None:
        """Return the `DIMENSION=LEVEL` that stands for a text, None if there is none."""
        for dimension in self.dimensions.values():
            for level, its in dimension.levels.items():
                if its == text:
                    return f"{dimension.name}={level}"
        return None


def load(path: Path | str | None = None) -> Presets:
    """Return the dimensions of a file; without one those that come with this package.

    Raises:
        InvalidRequestError: It cannot be read, or breaks a rule; the message says where.
    """
    source = files("pad_client").joinpath("presets.toml") if path is None else Path(path)
    try:
        content = tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        unreadable = InvalidRequestError(f"presets {source}: {error.strerror}")
        unreadable.hint = "correct the path"
        raise unreadable from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"presets {source}: {error}") from error
    if not 1 <= len(content) <= MAX_DIMENSIONS:
        rule = f"must have 1..{MAX_DIMENSIONS} dimensions"
        raise InvalidRequestError(f"presets {source}: {rule}, got {len(content)}")
    return Presets(
        {name: _dimension(f"presets {source}: {name}", name, its) for name, its in content.items()}
    )


def _dimension(where: str, name: str, value: Any) -> Dimension:
    if not _NAME.fullmatch(name):
        raise InvalidRequestError(f"{where}: {_NAME_RULE}")
    if not isinstance(value, dict) or set(value) != {"about", "levels"}:
        found = ", ".join(value) if isinstance(value, dict) else type(value).__name__
        raise InvalidRequestError(f"{where}: must have `about` and `levels` alone, got {found}")
    about, levels = value["about"], value["levels"]
    if not isinstance(about, str):
        raise InvalidRequestError(f"{where}.about: must be a text, got {type(about).__name__}")
    if not isinstance(levels, dict) or not 1 <= len(levels) <= MAX_LEVELS:
        found = str(len(levels)) if isinstance(levels, dict) else type(levels).__name__
        raise InvalidRequestError(
            f"{where}.levels: must be a table of 1..{MAX_LEVELS} levels, got {found}"
        )
    for level, text in levels.items():
        if not _NAME.fullmatch(level):
            raise InvalidRequestError(f"{where}.levels.{level}: {_NAME_RULE}")
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT_CHARACTERS:
            found = f"{len(text)} characters" if isinstance(text, str) else type(text).__name__
            rule = f"must be a text of 1..{MAX_TEXT_CHARACTERS} characters, not all blank"
            raise InvalidRequestError(f"{where}.levels.{level}: {rule}, got {found}")
    return Dimension(name, about, levels)


def _weight(name: str, number: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = float("nan")
    if not 0 < weight <= MAX_WEIGHT:
        raise InvalidRequestError(f"{name}: weight must be > 0 and <= 10, got {number!r}")
    return weight


def _or(names: Mapping[str, object]) -> str:
    return " | ".join(names)
