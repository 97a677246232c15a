"""Whether services would start with their variables: by their own rules, and by the files named.

Runs in the child process (see child.py): the rules are the services' code.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pad_client import presets
from pad_client.doctor.findings import Finding, count, fail, ok, warn
from pad_client.doctor.imports import try_import
from pad_client.doctor.keys import SERVICE_KEY_FILES
from pad_client.doctor.paths import is_pipe, named_pipes, shown
from pad_client.errors import InvalidRequestError

# By prefix: where the class is that says what may be set, and where that is to be read.
_CLASSES = {
    "GENERATOR_": ("generator_svc.settings", "GeneratorSettings", "docs/settings.md"),
    "REWARD_": ("reward_svc.settings", "RewardSettings", "docs/settings.md"),
    "EDGE_": ("edge_svc.settings", "EdgeSettings", "docs/openai.md"),
    "PLAYGROUND_": ("playground_svc.settings", "PlaygroundSettings", "docs/playground.md"),
}
# By prefix: what else a service looks at before it loads its model.
_STARTS = {
    "GENERATOR_": (
        ("generator_svc.access", "check_access"),
        ("generator_svc.admission.opening", "limit_table"),
    ),
    "REWARD_": (("reward_svc.access", "check_access"),),
}
_PRESETS = "PLAYGROUND_PRESETS"
# What keys.py and models.py look at, and more closely.
_MODEL_FOLDERS = ("GENERATOR_MODEL_DIR", "REWARD_MODEL_DIR")
_SEEN_ELSEWHERE = {*SERVICE_KEY_FILES, *_MODEL_FOLDERS}
# Longer than any number or choice: where one should stand, it may be a secret in the wrong place.
_MAX_SHOWN_CHARACTERS = 24


def check_settings(variables: Mapping[str, str]) -> Iterator[Finding]:
    """Look at the variables of each service of which any is set."""
    for prefix, (module, name, page) in _CLASSES.items():
        given = {each: value for each, value in variables.items() if each.startswith(prefix)}
        if not given:
            continue
        check = f"settings.{prefix.rstrip('_').lower()}"
        found = f"{count(len(given), 'variable')} {prefix}*"
        service, reason = try_import(module)
        if service is None:
            yield warn(check, f"{found}, not examined: {reason}", "mend the packages first")
            continue
        rules, _ = try_import("svc_common.settings")  # which the service has imported
        errors = rules.settings_errors(getattr(service, name), prefix, given)
        kept = "keeps to its rules" if len(given) == 1 else "keep to their rules"
        problems = [*_wrong(errors, given, page), *_lost_files(given.keys() - errors.keys(), given)]
        if not problems:
            settings = rules.load_settings(getattr(service, name), prefix, given)
            problems = [*_refusals(prefix, settings, given, rules.SettingsError)]
        yield from problems or [ok(check, f"{found} {kept}")]


def _wrong(errors: Mapping[str, Any], given: Mapping[str, str], page: str) -> Iterator[Finding]:
    for variable, error in errors.items():
        check = f"settings.{variable}"
        if variable in given:
            advice = f"correct it, or unset it: the service does not start with it; see {page}"
            yield fail(check, _without_secret(str(error), given[variable]), advice)
        else:
            advice = (
                f"set {variable}, unless `pad up` starts the service, or both models are one"
                " process (colocated_svc)"
            )
            yield warn(check, str(error), advice)


def _refusals(
    prefix: str, settings: Any, given: Mapping[str, str], refusal: type[Exception]
) -> Iterator[Finding]:
    """Look at what settings say together, as the service does at its start."""
    if named_pipes(given, SERVICE_KEY_FILES):
        return  # as keys.py says; to read one is to wait
    parts: list[tuple[str, str, tuple[Any, ...]]] = [
        (module, name, (settings,)) for module, name in _STARTS.get(prefix, ())
    ]
    if hasattr(settings, "traces_endpoint"):
        parts.append(("svc_common.tracing", "check_tracing", (settings, prefix)))
    if hasattr(settings, "device"):
        device = (f"{prefix}DEVICE", settings.device)
        parts.append(("svc_common.lm.loading", "check_device", device))
    for module, name, arguments in parts:
        part, reason = try_import(module)
        if part is None:
            found = f"{module} not asked: {reason}"
            yield warn(f"settings.{module}", found, "mend the packages first")
            continue
        try:
            getattr(part, name)(*arguments)
        except refusal as error:
            variable = re.split("[:=]", str(error), maxsplit=1)[0]
            if variable in SERVICE_KEY_FILES and variable in given:
                continue  # as keys.py says, and without what may be a secret
            advice = "correct it, or what goes with it: the service does not start so"
            found = _without_secret(str(error), given.get(variable, ""))
            yield fail(f"settings.{variable}", found, advice)


def _without_secret(message: str, value: str) -> str:
    """Return a rule that was broken without its value where that may be a secret."""
    for part in (value, *map(str.strip, value.split(","))):
        if len(part) > _MAX_SHOWN_CHARACTERS:
            shown = f"a text of {len(part)} characters"
            message = message.replace(repr(part), shown).replace(part, shown)
    return message


def _lost_files(known: set[str], given: Mapping[str, str]) -> Iterator[Finding]:
    """Look at the files and folders that settings name."""
    for variable in sorted(known):
        if problem := _path_problem(variable, given[variable]):
            advice = "correct the path, or what is there; paths of a container are looked up in it"
            yield fail(f"settings.{variable}", f"{variable}: {problem}", advice)


def _path_problem(variable: str, value: str) -> str | None:
    if not value:
        return "must name a folder, is empty" if variable in _MODEL_FOLDERS else None
    if variable in _SEEN_ELSEWHERE:
        return None
    if variable == _PRESETS:
        return _presets_problem(Path(value))
    if variable.endswith("_FILE"):
        return _file_problem(Path(value))
    return _folder_problem(Path(value)) if variable.endswith("_DIR") else None


def _presets_problem(path: Path) -> str | None:
    if (problem := _file_problem(path)) is not None:
        return problem
    try:
        presets.load(path)
    except InvalidRequestError as error:
        return error.message
    return None


def _file_problem(path: Path) -> str | None:
    if is_pipe(path):  # to open one is to wait
        return f"{path}: must be a file, is a pipe"
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return f"{shown(path)}: {error.strerror}"
    return None


def _folder_problem(path: Path) -> str | None:
    try:
        os.listdir(path)
    except OSError as error:
        return f"{shown(path)}: {error.strerror}"
    return None
