"""What an examination says: one finding a check, and what to do where all is not well."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"  # works, or is not needed by everybody
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name, the same in every run: "models.tokenizers".
        level: how bad it is.
        found: what is there.
        advice: what to do, in one line; empty where the level is OK.

    Bytes that are no text, as names of files and variables may hold, are told by their numbers.
    """

    check: str
    level: Level
    found: str
    advice: str = ""

    def __post_init__(self) -> None:
        for name in ("found", "advice"):  # such bytes cannot be printed
            text = getattr(self, name).encode("utf-8", "backslashreplace").decode()
            object.__setattr__(self, name, text)


def count(number: int, noun: str) -> str:
    """Return how many there are: "1 variable", "2 variables"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def ok(check: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(check, Level.OK, found)


def warn(check: str, found: str, advice: str) -> Finding:
    """Return what somebody should know."""
    return Finding(check, Level.WARN, found, advice)


def fail(check: str, found: str, advice: str) -> Finding:
    """Return what will not work."""
    return Finding(check, Level.FAIL, found, advice)
