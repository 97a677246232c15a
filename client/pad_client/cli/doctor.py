"""`pad doctor`: what is wrong with this installation, and what to do about it."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pad_client.access import AccessOptions
from pad_client.cli.console import (
    DEFAULT_SERVER,
    JsonOption,
    ServerOption,
    TimeoutOption,
    new_console,
    typable,
)
from pad_client.cli.up import ModelsOption
from pad_client.doctor import Finding, Level, ModelFolders, Server, examine, service_variables
from pad_client.embedded import default_models_dir
from pad_client.embedded.specs import BASE_MODEL, REWARD_MODEL

_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def doctor(
    context: typer.Context,
    models: ModelsOption = None,
    env_file: Annotated[
        list[Path] | None,
        typer.Option(
            "--env-file",
            metavar="FILE",
            help="Variables of services, NAME=VALUE a line, beside those of the environment. May be"
            " repeated.",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Leave out the model libraries, and the rules for services' variables."
        ),
    ] = False,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 5.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Examine this installation and a server, and say what to do; status 1 if something fails."""
    access: AccessOptions = AccessOptions() if context.obj is None else context.obj
    source = context.get_parameter_source("server")
    asked = Server(
        server,
        is_wanted=source is not None and source.name != "DEFAULT",
        timeout_s=timeout,
        access=access,
    )
    try:
        variables = service_variables(os.environ, env_file or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--env-file") from error
    with new_console(stderr=True).status("Examining"):
        found = examine(asked, _folders(models, variables), variables, is_quick=quick)
        findings = [dataclasses.replace(each, advice=typable(each.advice)) for each in found]
    if as_json:
        for each in findings:
            typer.echo(json.dumps(dataclasses.asdict(each), ensure_ascii=False))
    else:
        _print(new_console(), findings)
    if any(each.level is Level.FAIL for each in findings):
        raise typer.Exit(1)


def _folders(models: Path | None, variables: Mapping[str, str]) -> ModelFolders:
    """Return where the models are: as said here, as the services' variables say, or bundled."""
    folder = models or default_models_dir()
    base, persrm = folder / BASE_MODEL, folder / REWARD_MODEL
    if models is None:
        base = Path(variables.get("GENERATOR_MODEL_DIR") or base)
        persrm = Path(variables.get("REWARD_MODEL_DIR") or persrm)
    return ModelFolders(base, persrm)


def _print(console: Console, findings: Sequence[Finding]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for each in findings:
        found = Text(each.found)
        if each.advice:
            found.append(f"\n-> {each.advice}", style="bold")
        table.add_row(Text(each.level, style=_STYLES[each.level]), each.check, found)
    console.print(table)
    counts = Counter(each.level for each in findings)
    console.print(", ".join(f"{counts[level]} {level}" for level in Level))
