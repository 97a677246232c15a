"""The reference of docs/cli.md, from the `pad` command itself, by typer's own writer."""

import re

import typer
from typer.cli import get_docs_for_click
from typer.core import TyperGroup

from pad_client.cli.app import app
from pad_client.cli.lazy import LazyGroup

_USAGE = re.compile(r"\*\*Usage\*\*:\n\n```console\n\$ (.*)\n```")


def command_reference() -> str:
    """Return every command with its arguments and options."""
    command = typer.main.get_command(app)
    assert isinstance(command, LazyGroup)
    command.load_all()
    _keep_summaries_whole(command)
    names = command.context_settings["help_option_names"]
    context = typer.Context(command, help_option_names=names)
    text = get_docs_for_click(obj=command, ctx=context, name="pad")
    # Usage lines are no commands that a reader, or a test of the page, could run.
    return _USAGE.sub(r"`\1`", text).partition("\n\n")[2].strip() + "\n"


def _keep_summaries_whole(group: TyperGroup) -> None:
    """Have commands listed by the first line of their help, of which typer shows 45 characters."""
    for command in group.commands.values():
        command.short_help = (command.help or "").partition("\n")[0]
        if isinstance(command, TyperGroup):
            _keep_summaries_whole(command)
