"""Profiles as JSON Lines: one object a line, as `pad profile export` writes and `import` reads."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from pad_client.cli import profile_rules as rules
from pad_client.cli.profile_view import profile_values
from pad_client.types import Preference, Profile

MAX_LINE_BYTES = 1 << 20
FIELDS = {"user_id", "preferences", "beta", "revision", "updated_at"}


class LineError(Exception):
    """A line that is no profile; never repeats what stands in it."""


@dataclass(frozen=True)
class Record:
    """A profile of a file: what is to be stored, and where it stands."""

    line: int
    user_id: str
    preferences: tuple[Preference, ...]
    beta: float | None

    def is_same(self, stored: Profile) -> bool:
        """Tell whether it is stored already."""
        return (stored.preferences, stored.beta) == (self.preferences, self.beta)


def write_line(profile: Profile) -> str:
    """Return a profile as a line."""
    return json.dumps(profile_values(profile), ensure_ascii=False) + "\n"


def read_lines(source: BinaryIO) -> Iterator[Record | tuple[int, LineError]]:
    """Yield what stands in each line but empty ones; for a bad line its number and why."""
    places: dict[str, int] = {}
    for number, (line, num_bytes) in enumerate(_bounded_lines(source), 1):
        if not line.strip() and num_bytes <= MAX_LINE_BYTES:
            continue
        try:
            record = _read_line(number, line, num_bytes)
        except LineError as error:
            yield number, error
            continue
        first = places.setdefault(record.user_id, number)
        if first == number:
            yield record
        else:
            yield number, LineError(f"user_id: stands in line {first} already")


def _bounded_lines(source: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield each line with its size; of one that is too long its beginning alone is held."""
    while line := source.readline(MAX_LINE_BYTES + 1):
        num_bytes, piece = len(line), line
        while len(piece) > MAX_LINE_BYTES and not piece.endswith(b"\n"):
            piece = source.readline(MAX_LINE_BYTES + 1)
            num_bytes += len(piece)
        yield line, num_bytes


def _read_object(line: bytes, num_bytes: int) -> dict[str, Any]:
    if num_bytes > MAX_LINE_BYTES:
        raise LineError(f"must have at most {MAX_LINE_BYTES} bytes, has {num_bytes}")
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise LineError(f"must be UTF-8, byte {error.start + 1} is not") from None
    except json.JSONDecodeError as error:
        raise LineError(f"must be JSON: {error.msg} at character {error.colno}") from None
    except RecursionError:
        raise LineError("must be JSON: it is nested too deeply") from None
    except ValueError:  # beside those above json raises what int() does
        rule = f"must have at most {sys.get_int_max_str_digits()} digits"
        raise LineError(f"must be JSON: a number {rule}") from None
    if not isinstance(values, dict):
        raise LineError(f"must be an object, is {type(values).__name__}")
    unknown = sorted(set(values) - FIELDS)
    if unknown:
        raise LineError(f"has a field that is not known: {unknown[0][:40]!r}")
    for name in ("user_id", "preferences"):
        if name not in values:
            raise LineError(f"{name}: must be given")
    return values


def _read_line(number: int, line: bytes, num_bytes: int) -> Record:
    """Return a profile that the server takes, but for what it alone knows of texts.

    So a dry run counts what a real one would.
    """
    values = _read_object(line, num_bytes)
    user_id, wishes = _text("user_id", values["user_id"]), values["preferences"]
    _check("user_id", rules.broken_by_user_id(user_id), f"has {len(user_id)}")
    if not isinstance(wishes, list):
        raise LineError("preferences: must be a list")
    _check("preferences", rules.broken_by_num_wishes(len(wishes)), f"got {len(wishes)}")
    beta = values.get("beta")
    if beta is not None:
        beta = _number("beta", beta)
        _check("beta", rules.broken_by_beta(beta), f"got {beta:g}")
    preferences = (_wish(f"preferences[{place}]", each) for place, each in enumerate(wishes))
    return Record(number, user_id, tuple(preferences), beta)


def _wish(field: str, value: Any) -> Preference:
    if isinstance(value, str):
        return Preference(_wish_text(field, value))
    if not isinstance(value, dict) or not {"text"} <= set(value) <= {"text", "weight"}:
        raise LineError(f"{field}: must be a string, or an object of text and weight")
    weight = _number(f"{field}.weight", value.get("weight", 1.0))
    _check(f"{field}.weight", rules.broken_by_weight(weight), f"got {weight:g}")
    return Preference(_wish_text(f"{field}.text", value["text"]), weight)


def _wish_text(field: str, value: Any) -> str:
    text = _text(field, value)
    _check(field, rules.broken_by_text(text), f"has {len(text)}")
    return text


def _check(field: str, broken_rule: str, found: str) -> None:
    if broken_rule:
        raise LineError(f"{field}: {broken_rule}, {found}")


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise LineError(f"{field}: must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise LineError(f"{field}: must not hold half a character") from None
    return value


def _number(field: str, value: Any) -> float:
    number = rules.to_number(value)
    if not math.isfinite(number):
        raise LineError(f"{field}: must be a number")
    return number
