"""`pad profile`: keeps what users have said about how text should be written for them."""

import dataclasses
import json
from typing import Annotated

import typer
from rich.status import Status
from rich.table import Table

from pad_client.cli.completion import complete_user
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
from pad_client.types import Profile

profile_app = typer.Typer(help="Put, get, list and delete user profiles.", no_args_is_help=True)

UserArgument = Annotated[
    str,
    typer.Argument(metavar="USER", help="The user's identifier.", autocompletion=complete_user),
]
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
    beta: Annotated[float | None, typer.Option(help="Guidance strength, 0..10.")] = None,
    expected_revision: RevisionOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Create or replace a profile."""
    wishes = parse_preferences(preference)
    if not wishes:
        raise typer.BadParameter("at least one is needed", param_hint="--preference")
    with connect(context, server, timeout) as client, _status("Writing the profile"):
        profile = client.put_profile(user, wishes, beta=beta, expected_revision=expected_revision)
    _print_profiles([profile], as_json=as_json)


@profile_app.command("get")
def get(
    context: typer.Context,
    user: UserArgument,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Show a profile."""
    with connect(context, server, timeout) as client, _status("Reading the profile"):
        profile = client.get_profile(user)
    _print_profiles([profile], as_json=as_json)


@profile_app.command("list")
def list_all(
    context: typer.Context,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Show all profiles."""
    with connect(context, server, timeout) as client, _status("Reading the profiles"):
        profiles = list(client.list_profiles())
    _print_profiles(profiles, as_json=as_json)


@profile_app.command("delete")
def delete(
    context: typer.Context,
    user: UserArgument,
    expected_revision: RevisionOption = None,
    timeout: TimeoutOption = 10.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Erase a profile."""
    with connect(context, server, timeout) as client, _status("Erasing the profile"):
        client.delete_profile(user, expected_revision=expected_revision)
    typer.echo(f"The profile of {user} is erased.")


def _status(text: str) -> Status:
    return new_console(stderr=True).status(text)


def _print_profiles(profiles: list[Profile], *, as_json: bool) -> None:
    if as_json:
        for profile in profiles:
            values = dataclasses.asdict(profile)
            written = profile.updated_at
            values["updated_at"] = written.isoformat() if written else None
            typer.echo(json.dumps(values, ensure_ascii=False))
        return
    table = Table("user", "wishes", "beta", "revision", "written")
    for profile in profiles:
        table.add_row(
            profile.user_id,
            "\n".join(
                each.text if each.weight == 1 else f"{each.weight:g}*{each.text}"
                for each in profile.preferences
            ),
            "default" if profile.beta is None else f"{profile.beta:g}",
            str(profile.revision),
            f"{profile.updated_at:%Y-%m-%d %H:%M:%S} UTC" if profile.updated_at else "",
        )
    new_console().print(table)
