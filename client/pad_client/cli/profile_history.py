"""`pad profile history` and `pad profile undo`: what a profile said before."""

from typing import Annotated

import typer

from pad_client.cli.completion import complete_revision
from pad_client.cli.connection import connect
from pad_client.cli.console import (
    DEFAULT_SERVER,
    JsonOption,
    ServerOption,
    TimeoutOption,
    counted,
    new_console,
)
from pad_client.cli.profile_view import UserArgument, print_profiles, status
from pad_client.cli.strength import print_strength_note
from pad_client.errors import NotFoundError
from pad_client.types import ProfileHistory


def history(
    context: typer.Context,
    user: UserArgument,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Show what a profile says and said before, newest first."""
    with connect(context, server, timeout) as client, status("Reading the history"):
        found = client.profile_history(user)
    print_profiles(list(found.revisions), as_json=as_json)
    notes = new_console(stderr=True)
    if not found.current_revision:
        notes.print("What is stored now is damaged: undo, put or delete it.", style="yellow")
    if found.num_damaged:
        are_damaged = "is damaged" if found.num_damaged == 1 else "are damaged"
        damaged = counted(found.num_damaged, "earlier revision")
        notes.print(f"{damaged} {are_damaged}.", style="yellow")
    if len(found.revisions) <= 1 and found.current_revision:
        notes.print("No earlier revision is kept.", style="dim")


def undo(
    context: typer.Context,
    user: UserArgument,
    to: Annotated[
        int | None,
        typer.Option(
            "--to",
            min=1,
            metavar="REVISION",
            help="The revision to restore; default: the last.",
            autocompletion=complete_revision,
        ),
    ] = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Let a profile say again what it said before, as a new revision; a second undo is a redo."""
    with connect(context, server, timeout) as client, status("Restoring the profile"):
        found = client.profile_history(user)
        profile = client.restore_profile(
            user,
            _target(found, to),
            # Whoever writes meanwhile is not undone unseen.
            expected_revision=found.current_revision or None,
        )
    print_profiles([profile], as_json=as_json)
    print_strength_note(profile.preferences, profile.beta)


def _target(found: ProfileHistory, to: int | None) -> int:
    """Return the revision to restore: `to`, else the one before what is stored now.

    Raises:
        NotFoundError: It is not kept.
    """
    kept = [profile.revision for profile in found.revisions]
    earlier = kept[1:] if found.current_revision else kept
    if not earlier:
        raise _NotKeptError("no earlier revision is kept")
    if to is not None and to not in kept:
        numbers = ", ".join(map(str, earlier))
        raise _NotKeptError(f"--to: must be an earlier revision that is kept ({numbers}), got {to}")
    return earlier[0] if to is None else to


class _NotKeptError(NotFoundError):
    hint = "the server keeps as many as GENERATOR_PROFILE_HISTORY says, from the next write on"
