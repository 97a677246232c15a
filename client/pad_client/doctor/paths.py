"""Files that settings and options name: how they are shown, and which are not opened."""

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_MAX_SHOWN_CHARACTERS = 255


def shown(path: Path) -> str:
    """Return a path as it may be told: in its place may stand what belongs into the file."""
    text = str(path)
    if len(text) > _MAX_SHOWN_CHARACTERS or not text.isprintable() or "-----BEGIN" in text:
        return f"a text of {len(text)} characters"
    return text


def is_pipe(path: Path) -> bool:
    """Return whether to open it is to wait, and to read it to take it from others."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except OSError:
        return False


def named_pipes(values: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Return which of the names have a pipe for a value."""
    return [name for name in names if values.get(name) and is_pipe(Path(values[name]))]
