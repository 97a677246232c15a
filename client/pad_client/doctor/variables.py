"""The variables of services, of the environment and of files as containers are given them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

PREFIXES = ("GENERATOR_", "REWARD_", "EDGE_", "PLAYGROUND_")
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")


def service_variables(environment: Mapping[str, str], files: Sequence[Path]) -> dict[str, str]:
    """Return the variables of services by name; files win over the environment, later over earlier.

    Raises:
        ValueError: A file cannot be read, or sets nothing of a service; the text names file, line
            and rule, and no value.
    """
    found = _of_services(environment)
    for path in files:
        more = _of_services(read_env_file(path))
        if not more:
            raise ValueError(f"{path}: must set {' or '.join(f'{each}*' for each in PREFIXES)}")
        found |= more
    return found


def _of_services(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.startswith(PREFIXES)}


def read_env_file(path: Path) -> dict[str, str]:
    """Return what a file of lines NAME=VALUE sets, as Docker, Compose and systemd read them.

    Quotes around a value are no part of it, what is between them is left as it is.

    Raises:
        ValueError: It cannot be read, or a line is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be text in UTF-8") from error
    if "\0" in text:
        raise ValueError(f"{path}: must be text in UTF-8")
    found = {}
    for number, line in enumerate(map(str.strip, text.split("\n")), 1):
        if line and not line.startswith("#"):
            match = _LINE.fullmatch(line)
            if match is None:
                raise ValueError(f"{path}, line {number}: must be NAME=VALUE")
            found[match[1]] = _unquoted(match[2].strip(), f"{path}, line {number}")
    return found


def _unquoted(value: str, where: str) -> str:
    if not value.startswith(('"', "'")):
        return value
    if len(value) < 2 or value[-1] != value[0]:
        raise ValueError(f"{where}: a quotation must end its line")
    return value[1:-1]
