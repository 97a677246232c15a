"""A profile as text that people edit: TOML with comments, and back."""

import json
import re
import sys
import tomllib
from dataclasses import dataclass
from typing import Any

from pad_client.cli import profile_rules as rules
from pad_client.errors import InvalidRequestError
from pad_client.presets import Presets
from pad_client.types import Preference, Profile

MAX_SHOWN_CHARACTERS = 40
_HEADING = re.compile(r"\s*\[\[\s*wish\s*\]\]")
_BETA = re.compile(r"\s*beta\s*=")
_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)")

_INTRODUCTION = """\
# {title}
# Lines that begin with # say nothing. Save and close: the profile is written. To leave it as it is,
# close without a change.
#
# beta = 1.5         how strongly the wishes guide, 0..10; without it: the server's default
#
# [[wish]]           one of these for each wish, 1 to 8 of them
# text = "..."       in your own words
# weight = 2         how much it counts, above 0, at most 10; without it: 1
#
# In place of text a wish may have one of these; what is stored is the text beside it.
{presets}
"""


@dataclass(frozen=True)
class Form:
    """What a person wrote."""

    preferences: tuple[Preference, ...]
    beta: float | None

    @classmethod
    def of(cls, profile: Profile) -> "Form":
        """Return what a profile says."""
        return cls(profile.preferences, profile.beta)


class FormError(Exception):
    """A text that is no profile; `line` counts from 1, 0 where no line is to blame."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.line = line


def write_form(title: str, form: Form | None, presets: Presets) -> str:
    """Return the text to be edited; without a form one with an example in comments."""
    choices = [
        f'# set = "{dimension.name}={level}"'.ljust(38) + f" {text}"
        for dimension in presets.dimensions.values()
        for level, text in dimension.levels.items()
    ]
    text = _INTRODUCTION.format(title=title, presets="\n".join(choices))
    if form is None:
        return text + '\n# [[wish]]\n# text = "Be brief."\n'
    return text + write_wishes(form)


def write_wishes(form: Form) -> str:
    """Return the part of the text that says something."""
    lines = [] if form.beta is None else ["", f"beta = {form.beta!r}"]
    for each in form.preferences:
        lines += ["", "[[wish]]", f"text = {_quoted(each.text)}"]
        if each.weight != 1:
            lines.append(f"weight = {each.weight!r}")
    return "\n".join([*lines, ""])


def read_form(text: str, presets: Presets) -> Form:
    """Return what a person wrote.

    Raises:
        FormError: It is no profile.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _TOML_LINE.search(str(error))
        last = max(1, text.count("\n"))
        message = _TOML_LINE.sub("", str(error)).strip()
        raise FormError(f"is not TOML: {message}", int(found[1]) if found else last) from error
    except RecursionError:
        raise FormError("it is nested too deeply") from None
    except ValueError:  # beside those above tomllib raises what int() does
        digits = sys.get_int_max_str_digits()
        raise FormError(f"a number must have at most {digits} digits") from None
    lines = text.splitlines()
    unknown = set(content) - {"beta", "wish"}
    if unknown:
        raise FormError(f"only beta and [[wish]] are known, got {', '.join(sorted(unknown))}")
    beta = content.get("beta")
    if beta is not None:
        beta = _number("beta", beta, rules.broken_by_beta(beta), _line(lines, _BETA, 0))
    wishes = content.get("wish", [])
    if not isinstance(wishes, list) or not all(isinstance(each, dict) for each in wishes):
        raise FormError("each wish must begin with [[wish]]")
    if rules.broken_by_num_wishes(len(wishes)):
        raise FormError(f"there must be 1..{rules.MAX_WISHES} wishes, got {len(wishes)}")
    return Form(
        tuple(
            _wish(each, presets, _line(lines, _HEADING, place)) for place, each in enumerate(wishes)
        ),
        beta,
    )


def _wish(values: dict[str, Any], presets: Presets, line: int) -> Preference:
    unknown = set(values) - {"text", "set", "weight"}
    if unknown:
        names = ", ".join(sorted(unknown))
        raise FormError(f"a wish has text or set, and weight; got {names}", line)
    if ("text" in values) == ("set" in values):
        raise FormError("a wish must have either text or set", line)
    weight = values.get("weight", 1.0)
    weight = _number("weight", weight, rules.broken_by_weight(weight), line)
    name = "text" if "text" in values else "set"
    text = values[name]
    if not isinstance(text, str):
        raise FormError(f"{name} must be a text in quotes", line)
    if name == "set":
        try:
            chosen = presets.preference(text)
        except InvalidRequestError as error:
            raise FormError(error.message, line) from error
        if ":" in text and "weight" in values:
            raise FormError("the weight must be said once", line)
        return chosen if ":" in text else Preference(chosen.text, weight)
    if rule := rules.broken_by_text(text):
        raise FormError(f"text {rule}, has {len(text)}", line)
    return Preference(text, weight)


def _number(name: str, value: Any, broken_rule: str, line: int) -> float:
    if broken_rule:
        raise FormError(f"{name} {broken_rule}, got {_shown(value)}", line)
    return float(value)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # hexadecimal digits are not limited, decimal ones are
        return "a number of too many digits"
    except RecursionError:
        return "a value that is nested too deeply"
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}..."


def _line(lines: list[str], pattern: re.Pattern[str], place: int) -> int:
    """Return the number of the line that matches for the `place`-th time, 0 if none does."""
    found = [number for number, line in enumerate(lines, 1) if pattern.match(line)]
    return found[place] if place < len(found) else 0


def _quoted(text: str) -> str:
    """Return a TOML string: what JSON escapes, TOML escapes alike, but for the delete character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
