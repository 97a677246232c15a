"""Read a service's settings from environment variables, once, and make the table of them."""

import dataclasses
import difflib
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")
_S = TypeVar("_S")
_MISSING: Any = dataclasses.MISSING


class SettingsError(Exception):
    """A variable cannot be used; the text names variable, rule and value."""


def setting(
    default: _T = _MISSING,
    *,
    help: str,
    min: float | None = None,
    max: float | None = None,
    choices: Iterable[str] = (),
    check: Callable[[Any], None] | None = None,
) -> _T:
    """Declare a field of a settings dataclass; without a default its variable must be set.

    Args:
        default: Value where the variable is not set.
        help: What it is, with its unit; one sentence.
        min: Least number allowed.
        max: Greatest number allowed.
        choices: The texts allowed, for `str` and for each part of a tuple; empty for any.
        check: Raises a `ValueError` of rule and value where a value breaks a rule of its own.
    """
    metadata = {"help": help, "min": min, "max": max, "choices": tuple(choices), "check": check}
    field: _T = dataclasses.field(default=default, metadata=metadata)
    return field


def load_settings(cls: type[_S], prefix: str, environ: Mapping[str, str]) -> _S:
    """Return an instance of the dataclass `cls` from the variables that begin with `prefix`.

    Field `max_tokens` is read from `<prefix>MAX_TOKENS`. Types: `str`, `int`, `float`, `bool`
    (`true`, `false`), `Path`, and `tuple[str, ...]` (parts between commas).

    Raises:
        SettingsError: A variable is unknown, missing, not of its type or out of range.
    """
    values, errors = _read(cls, prefix, environ)
    if errors:
        raise next(iter(errors.values()))
    return cls(**values)


def settings_errors(
    cls: type[Any], prefix: str, environ: Mapping[str, str]
) -> dict[str, SettingsError]:
    """Return by variable all that `load_settings` would refuse, where it tells of the first."""
    return _read(cls, prefix, environ)[1]


def _read(
    cls: type[Any], prefix: str, environ: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, SettingsError]]:
    """Return the values of the fields that are set, and what is wrong by variable."""
    fields = {prefix + field.name.upper(): field for field in _fields(cls)}
    types = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    errors: dict[str, SettingsError] = {}
    for variable in sorted(environ):
        if variable.startswith(prefix) and variable not in fields:
            # Without what all have in common, by which all would be similar.
            names = [each.removeprefix(prefix) for each in fields]
            similar = difflib.get_close_matches(variable.removeprefix(prefix), names, n=1)
            hint = f"; did you mean {prefix}{similar[0]}?" if similar else ""
            errors[variable] = SettingsError(f"{variable}: is no setting of this service{hint}")
    for variable, field in fields.items():
        if variable in environ:
            try:
                value = _parse(variable, environ[variable], types[field.name])
                _check(variable, value, field.metadata)
            except SettingsError as error:
                errors[variable] = error
            else:
                values[field.name] = value
        elif field.default is dataclasses.MISSING:
            rule = f"{variable}: must be set ({field.metadata.get('help', '')})"
            errors[variable] = SettingsError(rule)
    return values, errors


def settings_table(cls: type[Any], prefix: str) -> str:
    """Return a Markdown table of the settings of the dataclass `cls`."""
    types = typing.get_type_hints(cls)
    lines = ["| variable | type | default | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
    for field in _fields(cls):
        cells = (
            f"`{prefix}{field.name.upper()}`",
            _type_name(types[field.name]),
            _default_text(field.default),
            _rule(field.metadata),
            field.metadata.get("help", ""),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _fields(cls: type[Any]) -> tuple["dataclasses.Field[Any]", ...]:
    return dataclasses.fields(cls)


def _parse(variable: str, text: str, kind: Any) -> Any:
    if kind == tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind is bool:
        if text not in ("true", "false"):
            raise SettingsError(f"{variable}: must be true or false, got {text!r}")
        return text == "true"
    if kind not in (str, int, float, Path):
        raise TypeError(f"{variable}: settings of type {kind} are not supported")
    try:
        value = kind(text)
    except ValueError as error:
        raise _type_error(variable, kind, text) from error
    if kind is float and not math.isfinite(value):
        raise _type_error(variable, kind, text)
    return value


def _type_error(variable: str, kind: Any, text: str) -> SettingsError:
    noun = {int: "a whole number", float: "a number"}[kind]
    return SettingsError(f"{variable}: must be {noun}, got {text!r}")


def _check(variable: str, value: Any, metadata: Mapping[str, Any]) -> None:
    low, high, choices = (metadata.get(name) for name in ("min", "max", "choices"))
    is_outside = (low is not None and value < low) or (high is not None and value > high)
    parts = value if isinstance(value, tuple) else (value,)
    if is_outside or (choices and not set(parts) <= set(choices)):
        raise SettingsError(f"{variable}: must be {_rule(metadata)}, got {value!r}")
    check = metadata.get("check")
    if check is not None:
        try:
            check(value)
        except ValueError as error:
            raise SettingsError(f"{variable}: {error}") from error


def _rule(metadata: Mapping[str, Any]) -> str:
    low, high, choices = (metadata.get(name) for name in ("min", "max", "choices"))
    if choices:
        return " | ".join(choices)
    if low is not None and high is not None:
        return f"{low}..{high}"
    if low is not None:
        return f">= {low}"
    return f"<= {high}" if high is not None else ""


def _type_name(kind: Any) -> str:
    return "comma-separated texts" if kind == tuple[str, ...] else str(kind.__name__).lower()


def _default_text(default: Any) -> str:
    if default is dataclasses.MISSING:
        return "(must be set)"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    text = ",".join(default) if isinstance(default, tuple) else str(default)
    return f"`{text}`" if text else "(empty)"
