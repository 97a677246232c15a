"""What the commands share: options, consoles, progress, and how an error looks."""

import errno
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pad_client.embedded import StackError, StartProgress
from pad_client.errors import DeadlineExceededError, PadError
from pad_client.types import Preference

DEFAULT_SERVER = "127.0.0.1:50051"

ServerOption = Annotated[
    str,
    typer.Option("--server", "-s", envvar="PAD_SERVER", metavar="HOST:PORT", help="The generator."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
PREFERENCE_FLAGS = ("--preference", "-p")
PREFERENCE_METAVAR = "[WEIGHT*]WISH"
PREFERENCE_HELP = 'A wish, such as "Be brief."; "2*Be brief." counts twice. May be repeated.'
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.001, metavar="SECONDS", help="Longest wait.")
]

_WEIGHTED = re.compile(r"\s*(\d+(?:\.\d+)?)\s*\*\s*(.+)", re.DOTALL)
_PLAIN_PROGRESS_S = 2.0  # between lines where no spinner can turn


def new_console(*, stderr: bool = False) -> Console:
    """Return a console that leaves texts as they are; it heeds NO_COLOR and pipes by itself."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def counted(number: int, noun: str) -> str:
    """Return a number with the noun that it counts."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def program() -> str:
    """Return how this command was started, as the user can type it again."""
    started = Path(sys.argv[0])
    if not started.is_file():  # under `python -c`, or found by the shell alone
        return "pad"
    relative = os.path.relpath(started)
    if os.sep not in relative:
        relative = os.path.join(os.curdir, relative)
    return shlex.quote(min(str(started.absolute()), relative, key=len))


def typable(advice: str) -> str:
    """Return advice with its commands as the user can type them."""
    return advice.replace("`pad ", f"`{program()} ")


def report_error(error: PadError | StackError) -> None:
    """Print what went wrong, and what to do about it, to standard error."""
    console = new_console(stderr=True)
    code = f" ({error.code.name})" if isinstance(error, PadError) and error.code else ""
    console.print(f"pad: {error}{code}", style="red", soft_wrap=True)
    hint = typable(error.hint)
    if isinstance(error, DeadlineExceededError):
        hint = "allow more time with --timeout"  # where a program would set timeout_s
    if isinstance(error, PadError) and error.retry_after_s is not None:
        hint = f"try again after {error.retry_after_s:g} s"
    if hint:
        console.print(f"hint: {hint}", soft_wrap=True)


@contextmanager
def errors_reported() -> Iterator[None]:
    """End the command with exit code 1 and one clear message where something failed."""
    try:
        yield
    except (PadError, StackError) as error:
        report_error(error)
        raise typer.Exit(1) from error
    except OSError as error:
        if error.errno in (None, errno.EPIPE):  # whoever reads us has enough: not worth a word
            raise
        where = f"{error.filename}: " if error.filename else ""
        new_console(stderr=True).print(f"pad: {where}{error.strerror}", style="red", soft_wrap=True)
        raise typer.Exit(1) from error


def parse_preferences(values: list[str] | None) -> list[Preference]:
    """Return the preferences of `--preference` options."""
    preferences = []
    for value in values or ():
        match = _WEIGHTED.fullmatch(value)
        if match:
            preferences.append(Preference(match[2], float(match[1])))
        else:
            preferences.append(Preference(value))
    return preferences


@contextmanager
def shown_start(console: Console) -> Iterator[Callable[[StartProgress], None]]:
    """Yield what shows how far a start is: a spinner, or a line now and then in a pipe."""
    if console.is_terminal:
        with console.status("Starting") as status:
            yield lambda progress: status.update(_start_text(progress))
        return
    shown: tuple[tuple[str, ...], float] = ((), 0.0)

    def show(progress: StartProgress) -> None:
        nonlocal shown
        is_due = progress.elapsed_s >= shown[1] + _PLAIN_PROGRESS_S
        if progress.waiting != shown[0] or is_due:
            shown = (progress.waiting, progress.elapsed_s)
            console.print(_start_text(progress), soft_wrap=True)

    yield show


def _start_text(progress: StartProgress) -> str:
    if not progress.waiting:
        return f"Ready: {', '.join(progress.ready)}"
    return f"Starting: waiting for {', '.join(progress.waiting)} ({progress.elapsed_s:.0f} s)"


@contextmanager
def sigterm_as_interrupt(*, hangup_too: bool = False) -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: with everything it started stopped.

    Args:
        hangup_too: SIGHUP as well, which a closed terminal sends; not under `nohup`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are not ours to handle here
        return
    numbers = [signal.SIGTERM]
    if (
        hangup_too
        and hasattr(signal, "SIGHUP")
        and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    ):
        numbers.append(signal.SIGHUP)

    def interrupt(number: int, frame: object) -> None:
        for each in numbers:  # a shell passes on what the kernel has sent: tidying up goes on
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
