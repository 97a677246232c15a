"""`pad train`: train a personalised reward model from a recipe."""

import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from pad_client.cli.console import sigterm_as_interrupt
from pad_client.embedded import StackError
from pad_client.embedded.child import OWN_PYTHON

_MODULE = "training.launch"
_PR_SET_PDEATHSIG = 1
_NEEDED = ("training", "torch", "transformers", "accelerate", "peft", "matplotlib")


def train(
    recipe: Annotated[Path, typer.Argument(help="TOML file; see training/recipes/.")],
    processes: Annotated[
        int, typer.Option(min=0, help="Processes to train in; 0: one a GPU, else one.")
    ] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.NAME=VALUE", help="In place of the recipe's."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder, in place of the recipe's.")
    ] = None,
) -> None:
    """Train a personalised reward model; started again after a stop, it goes on."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise StackError(
            f"training needs packages that are not installed: {', '.join(missing)}",
            hint="pip install ./client '.[train]' in a checkout",
        )
    command = [*OWN_PYTHON, _MODULE, str(recipe), "--processes", str(processes)]
    command += [part for each in settings or () for part in ("--set", each)]
    command += ["--out", str(out)] if out else []
    raise typer.Exit(run_child(command))


def run_child(command: list[str]) -> int:
    """Run a command in the foreground and return its status; Ctrl-C and SIGTERM end it too.

    On Linux the end of this process by whatever signal ends it as well.
    """
    with subprocess.Popen(command, preexec_fn=_ender()) as child, sigterm_as_interrupt():
        try:
            status = child.wait()
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            typer.echo("\nStopped; the same command goes on from the last checkpoint.", err=True)
            return 130
    return status if status >= 0 else 128 - status


def _ender() -> Callable[[], None] | None:
    """Return what makes the kernel send a child SIGTERM when this process ends."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def end_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before
            os._exit(1)

    return end_with_parent
