"""`pad token`: makes API tokens."""

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from pad_client.tokens import NewToken, TokenScope, new_token

token_app = typer.Typer(help="Make API tokens.", no_args_is_help=True)

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@token_app.callback()
def group() -> None:
    """Make API tokens."""


@token_app.command("new")
def new(
    tenant: Annotated[str, typer.Option(help="Whose users the caller works with.")],
    scope: Annotated[
        list[TokenScope],
        typer.Option(help="What it may do. May be repeated."),
    ],
    name: Annotated[
        str, typer.Option(help="Of the token, as logs show it.", show_default="tenant and time")
    ] = "",
    days: Annotated[
        int | None, typer.Option(min=1, max=36500, help="Until it expires; never if not given.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="New file for the token, readable by you alone; it is not printed then."),
    ] = None,
) -> None:
    """Make a token and the line by which a server knows it.

    Append the line to the file in GENERATOR_TOKENS_FILE (scope `score`: REWARD_TOKENS_FILE). The
    token is shown once: the line holds its hash alone.
    """
    name = name or f"{tenant[:40]}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    for option, value in (("--tenant", tenant), ("--name", name)):
        if not _NAME.fullmatch(value):
            raise typer.BadParameter(
                f"must be 1..64 letters, digits, '.', '_' or '-', got {value!r}", param_hint=option
            )
    lifetime = None if days is None else timedelta(days=days)
    made = new_token(tenant, name, scope, lifetime)
    if out is None:
        typer.echo("The token, for its caller; it is not shown again:", err=True)
        typer.echo(made.secret)
        typer.echo("The line for the server's tokens file:", err=True)
    else:
        _write(out, made)
    typer.echo(made.line)


def _write(path: Path, made: NewToken) -> None:
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="--out") from error
    with os.fdopen(number, "w", encoding="ascii") as file:
        file.write(f"{made.secret}\n")
