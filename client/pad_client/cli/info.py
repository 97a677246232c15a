"""`pad info`: what a server serves."""

import dataclasses
import json

import typer
from rich.table import Table

from pad_client.cli.connection import connect
from pad_client.cli.console import (
    DEFAULT_SERVER,
    JsonOption,
    ServerOption,
    TimeoutOption,
    new_console,
)


def info(
    context: typer.Context,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Describe the server: its model, limits and reward replicas."""
    with (
        connect(context, server, timeout) as client,
        new_console(stderr=True).status(f"Asking {server}"),
    ):
        found = client.server_info()
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found)))
        return
    console = new_console()
    table = Table.grid(padding=(0, 2))
    for name, value in dataclasses.asdict(found).items():
        if name != "reward_replicas":
            table.add_row(name.replace("_", " "), str(value))
    console.print(table)
    replicas = Table("reward replica", "available", "free slots", "model version")
    for each in found.reward_replicas:
        state = "yes" if each.is_available else "suspended" if each.is_suspended else "NO"
        replicas.add_row(each.address, state, str(each.num_free_slots), each.model_version)
    console.print(replicas)
