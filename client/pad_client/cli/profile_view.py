"""What the commands about profiles share: arguments, and how a profile looks."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.status import Status
from rich.table import Table

from pad_client.cli.completion import complete_user
from pad_client.cli.console import new_console
from pad_client.types import Profile

UserArgument = Annotated[
    str,
    typer.Argument(metavar="USER", help="The user's identifier.", autocompletion=complete_user),
]
PresetsOption = Annotated[
    Path | None,
    typer.Option(
        "--presets",
        envvar="PAD_PRESETS",
        metavar="FILE",
        help="Dimensions and levels of your own, TOML; default: those of this package.",
    ),
]


def status(text: str) -> Status:
    """Return a spinner that says what is waited for."""
    return new_console(stderr=True).status(text)


def profile_values(profile: Profile) -> dict[str, Any]:
    """Return a profile as `--json` and `export` write it."""
    values = dataclasses.asdict(profile)
    written = profile.updated_at
    values["updated_at"] = written.isoformat() if written else None
    return values


def print_profiles(profiles: list[Profile], *, as_json: bool) -> None:
    """Print profiles as a table, or one JSON object a line."""
    if as_json:
        for profile in profiles:
            typer.echo(json.dumps(profile_values(profile), ensure_ascii=False))
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
