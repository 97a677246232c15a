"""`pad profile`: keeps what users have said about how text should be written for them."""

import json
from typing import Annotated

import typer
from rich.table import Table

from pad_client import presets
from pad_client.cli import profile_edit, profile_history, profile_transfer
from pad_client.cli.completion import complete_level
from pad_client.cli.connection import connect
from pad_client.cli.console import (
    DEFAULT_SERVER,
    PREFERENCE_FLAGS,
    PREFERENCE_HELP,
    PREFERENCE_METAVAR,
    JsonOption,
    ServerOption,
    TimeoutOption,
    new_console,
    parse_preferences,
)
from pad_client.cli.profile_view import PresetsOption, UserArgument, print_profiles, status
from pad_client.cli.strength import print_strength_note

profile_app = typer.Typer(
    help="Put, edit, undo, list, move and delete user profiles.", no_args_is_help=True
)

RevisionOption = Annotated[
    int | None,
    typer.Option(
        "--expected-revision", min=0, help="Only if this revision is stored; 0: only if none is."
    ),
]


@profile_app.command("put")
def put(
    context: typer.Context,
    user: UserArgument,
    preference: Annotated[
        list[str] | None,
        typer.Option(*PREFERENCE_FLAGS, metavar=PREFERENCE_METAVAR, help=PREFERENCE_HELP),
    ] = None,
    chosen: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="DIMENSION=LEVEL[:WEIGHT]",
            help="A wish by its name; `pad profile presets` lists them. May be repeated.",
            autocompletion=complete_level,
        ),
    ] = None,
    presets_file: PresetsOption = None,
    beta: Annotated[float | None, typer.Option(help="Guidance strength, 0..10.")] = None,
    expected_revision: RevisionOption = None,
    erase_history: Annotated[
        bool,
        typer.Option("--erase-history", help="Keep nothing of what the profile said before."),
    ] = False,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Create or replace a profile."""
    wishes = presets.load(presets_file).preferences(chosen) if chosen else []
    wishes += parse_preferences(preference)
    if not wishes:
        raise typer.BadParameter("at least one is needed", param_hint="--preference or --set")
    with connect(context, server, timeout) as client, status("Writing the profile"):
        profile = client.put_profile(
            user,
            wishes,
            beta=beta,
            expected_revision=expected_revision,
            erase_history=erase_history,
        )
    print_profiles([profile], as_json=as_json)
    print_strength_note(profile.preferences, profile.beta)


@profile_app.command("get")
def get(
    context: typer.Context,
    user: UserArgument,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Show a profile."""
    with connect(context, server, timeout) as client, status("Reading the profile"):
        profile = client.get_profile(user)
    print_profiles([profile], as_json=as_json)
    print_strength_note(profile.preferences, profile.beta)


@profile_app.command("list")
def list_all(
    context: typer.Context,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Show all profiles."""
    with connect(context, server, timeout) as client, status("Reading the profiles"):
        profiles = list(client.list_profiles())
    print_profiles(profiles, as_json=as_json)


@profile_app.command("delete")
def delete(
    context: typer.Context,
    user: UserArgument,
    expected_revision: RevisionOption = None,
    timeout: TimeoutOption = 10.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Erase a profile."""
    with connect(context, server, timeout) as client, status("Erasing the profile"):
        client.delete_profile(user, expected_revision=expected_revision)
    typer.echo(f"The profile of {user} is erased.")


@profile_app.command("presets")
def list_presets(presets_file: PresetsOption = None, as_json: JsonOption = False) -> None:
    """Show the dimensions and levels that --set and edit know, and the wishes they stand for."""
    known = presets.load(presets_file).dimensions.values()
    if as_json:
        for dimension in known:
            values = {"dimension": dimension.name, "about": dimension.about}
            typer.echo(json.dumps({**values, "levels": dimension.levels}, ensure_ascii=False))
        return
    table = Table("dimension", "level", "wish")
    for dimension in known:
        for number, (level, text) in enumerate(dimension.levels.items()):
            is_last = number == len(dimension.levels) - 1
            name = f"{dimension.name}\n{dimension.about}" if number == 0 else ""
            table.add_row(name, level, text, end_section=is_last)
    new_console().print(table)


profile_app.command("edit")(profile_edit.edit)
profile_app.command("history")(profile_history.history)
profile_app.command("undo")(profile_history.undo)
profile_app.command("export")(profile_transfer.export)
profile_app.command("import")(profile_transfer.import_all)
