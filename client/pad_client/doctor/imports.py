"""Imports, in the child process, of what may be missing or broken."""

from importlib import import_module
from typing import Any


def try_import(name: str) -> tuple[Any, str]:
    """Return a module and "", or None and why it cannot be imported."""
    try:
        return import_module(name), ""
    except Exception as error:  # a broken package raises whatever it likes
        return None, f"{type(error).__name__}: {error}"
