"""Read a recipe: TOML into dataclasses, with an error that names what is wrong."""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from training.recipe import Recipe, Schedule


class RecipeError(Exception):
    """A recipe cannot be followed; the text names setting, rule and value."""


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in `path`.

    Args:
        overrides: `section.setting=value`, each with a TOML value or bare text.

    Raises:
        RecipeError: the file or a setting is wrong.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"recipe {path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path}: must be TOML: {error}") from error
    for override in overrides:
        _override(table, override)
    recipe: Recipe = _build(Recipe, table, "")
    for name, value in (
        ("data.train", recipe.data.train),
        ("model.base", recipe.model.base),
        ("out", recipe.out),
    ):
        if not value:
            raise RecipeError(f"{name}: must be given, is missing")
    return recipe


def check_processes(recipe: Recipe, num_processes: int) -> None:
    """Refuse a number of processes over which the groups of a step cannot be shared out.

    Raises:
        RecipeError: a phase's `groups_per_step` is no multiple of it.
    """
    for name in ("reading", "stage1", "stage2"):
        schedule: Schedule = getattr(recipe, name)
        if schedule.num_steps and schedule.groups_per_step % num_processes:
            rule = f"must be a multiple of the number of processes {num_processes}"
            raise RecipeError(f"{name}.groups_per_step: {rule}, got {schedule.groups_per_step}")


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return settings as `section.name: value`, JSON values only."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[f"{prefix}{field.name}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _override(table: dict[str, Any], override: str) -> None:
    name, is_assignment, text = override.partition("=")
    *sections, last = name.strip().split(".")
    if not is_assignment or not last:
        raise RecipeError(f"--set: must be section.setting=value, got {override!r}")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise RecipeError(f"{name}: must be a setting's name")
    table[last] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _build(kind: type[Any], table: Mapping[str, Any], prefix: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    types = get_type_hints(kind)
    values = {}
    for name, value in table.items():
        if name not in fields:
            known = ", ".join(fields)
            raise RecipeError(f"{prefix}{name}: must be one of {known}; there is no such setting")
        if dataclasses.is_dataclass(types[name]):
            if not isinstance(value, dict):
                raise RecipeError(f"{prefix}{name}: must be a table, got {value!r}")
            values[name] = _build(types[name], value, f"{prefix}{name}.")
        else:
            values[name] = _checked(f"{prefix}{name}", types[name], fields[name].metadata, value)
    return kind(**values)


def _checked(name: str, kind: Any, rules: Mapping[str, Any], value: Any) -> Any:
    if kind == tuple[str, ...]:
        return _texts(name, rules, value)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise RecipeError(f"{name}: must be of type {kind.__name__}, got {value!r}")
    low, high = rules.get("low", value), rules.get("high", value)
    if not low <= value <= high:
        bounds = f"at least {low}" if high == float("inf") else f"{low}..{high}"
        raise RecipeError(f"{name}: must be {bounds}, got {value}")
    if value not in rules.get("choices", (value,)):
        raise RecipeError(f"{name}: must be one of {', '.join(rules['choices'])}, got {value!r}")
    return value


def _texts(name: str, rules: Mapping[str, Any], value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise RecipeError(f"{name}: must be a list of texts, got {value!r}")
    for text in texts:
        if text not in rules.get("each", (text,)):
            raise RecipeError(f"{name}: must be some of {', '.join(rules['each'])}, got {text!r}")
    if len(set(texts)) < len(texts):
        raise RecipeError(f"{name}: must name each once, got {value!r}")
    return tuple(texts)
