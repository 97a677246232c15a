"""`pad profile export` and `pad profile import`: all profiles to a file and back."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, TextIO

import typer
from rich.console import Console
from rich.progress import Progress

from pad_client.cli.connection import connect, connect_async
from pad_client.cli.console import (
    DEFAULT_SERVER,
    ServerOption,
    TimeoutOption,
    counted,
    new_console,
)
from pad_client.cli.profile_import import FIRST_PAUSE_S, MAX_TRIES, Importer, OnConflict, Outcome
from pad_client.cli.profile_lines import read_lines, write_line
from pad_client.client import GeneratorClient
from pad_client.errors import DamagedProfileError, PadError
from pad_client.types import Profile

PAGE_SIZE = 200
MAX_SHOWN_ERRORS = 100
STANDARD = Path("-")

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="JSON Lines; - for standard input or output.")
]


def export(
    context: typer.Context,
    file: FileArgument,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
    timeout: TimeoutOption = 30.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Write all profiles to a file, one JSON object a line; exit status 1 if some are damaged."""
    if file != STANDARD and file.exists() and not force:
        raise typer.BadParameter(f"{file} is there already: see --force", param_hint="FILE")
    notes = new_console(stderr=True)
    count, damaged = 0, None
    with (
        connect(context, server, timeout) as client,
        _output(file) as out,
        _progress(notes) as bar,
    ):
        task = bar.add_task("Exporting", total=None)
        try:
            for profile in _all_profiles(client):
                out.write(write_line(profile))
                count += 1
                bar.update(
                    task, completed=count, description=f"Exporting: {counted(count, 'profile')}"
                )
        except DamagedProfileError as error:
            damaged = error
    notes.print(f"{counted(count, 'profile')} exported")
    if damaged is not None:
        notes.print(f"pad: not exported: {damaged}", style="red", soft_wrap=True)
        raise typer.Exit(1)


def _all_profiles(client: GeneratorClient) -> Iterator[Profile]:
    """Yield all profiles; what the server's state hinders is tried again, behind the last one.

    Raises:
        DamagedProfileError: After all others, if some cannot be read.
    """
    last, num_failed = "", 0
    while True:
        try:
            for profile in client.list_profiles(page_size=PAGE_SIZE):
                if profile.user_id > last:  # they come in the order of their ids
                    yield profile
                    last, num_failed = profile.user_id, 0
        except PadError as error:
            num_failed += 1
            if not error.retryable or num_failed >= MAX_TRIES:
                raise
            time.sleep(max(FIRST_PAUSE_S * 2**num_failed, error.retry_after_s or 0.0))
        else:
            return


def import_all(
    context: typer.Context,
    file: FileArgument,
    on_conflict: Annotated[
        OnConflict,
        typer.Option(help="Where a user has another profile: report it, leave it, or replace it."),
    ] = OnConflict.FAIL,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Calls at once.")] = 32,
    timeout: TimeoutOption = 10.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Store the profiles of a file; what is stored already is left, so it can be run again.

    Each is stored on its own. Exit status 1: some were not, and their lines are told.
    """
    notes = new_console(stderr=True)

    async def run() -> Importer:
        with _input(file) as source, _progress(notes) as bar:
            size = os.fstat(source.fileno()).st_size if file != STANDARD else None
            task = bar.add_task("Importing", total=size)
            num_errors = 0

            def report(line: int, reason: str) -> None:
                nonlocal num_errors
                num_errors += 1
                if num_errors <= MAX_SHOWN_ERRORS:
                    bar.console.print(f"line {line}: {reason}", style="red", soft_wrap=True)
                elif num_errors == MAX_SHOWN_ERRORS + 1:
                    bar.console.print("More lines failed, which are only counted.", style="red")

            def advance() -> None:
                bar.update(task, completed=source.tell() if size is not None else None, advance=0)

            async with connect_async(context, server, timeout) as client:
                importer = Importer(client, on_conflict, dry_run, report, advance)
                try:
                    await importer.run(read_lines(source), concurrency)
                except (PadError, asyncio.CancelledError):
                    _print_counts(bar.console, importer, dry_run=dry_run)
                    bar.console.print("Stopped. The same command goes on from here.")
                    raise
            return importer

    importer = asyncio.run(run())
    _print_counts(notes, importer, dry_run=dry_run)
    if importer.counts[Outcome.FAILED]:
        raise typer.Exit(1)


def _print_counts(console: Console, importer: Importer, *, dry_run: bool) -> None:
    parts = [f"{importer.counts[each]} {each}" for each in Outcome if importer.counts[each]]
    said = ", ".join(parts) or "nothing to import"
    console.print(f"Nothing was written; it would be: {said}" if dry_run else said, soft_wrap=True)


def _progress(console: Console) -> Progress:
    """Return a bar that is drawn on a terminal alone."""
    return Progress(console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def _input(file: Path) -> Iterator[BinaryIO]:
    if file == STANDARD:
        yield sys.stdin.buffer
        return
    try:
        source = file.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from error
    with source:
        yield source


@contextmanager
def _output(file: Path) -> Iterator[TextIO]:
    """Yield where to write; a file gets its name when all is in it, and is its owner's to read."""
    if file == STANDARD:
        yield sys.stdout
        sys.stdout.flush()
        return
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise typer.BadParameter(f"{part}: {error.strerror}", param_hint="FILE") from error
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="\n") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
