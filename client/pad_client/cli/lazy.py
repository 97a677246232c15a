"""Commands that are imported when one of them runs, so that help and completion are quick."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command before its module is loaded.

    Attributes:
        target: `module:name` of a function, or of a `typer.Typer` with commands of its own.
        help: its line in the list of commands: the first of its docstring, or a Typer's `help`.
    """

    target: str
    help: str

    def load(self, name: str) -> Any:
        """Import the module and return the command, to be called by that name."""
        module, _, attribute = self.target.partition(":")
        found = getattr(import_module(module), attribute)
        parent = typer.Typer()
        if isinstance(found, typer.Typer):
            parent.add_typer(found, name=name)
        else:
            parent.command(name)(found)
        return typer.main.get_group(parent).commands[name]


class LazyGroup(TyperGroup):
    """Lists `lazy_commands` without loading them, and loads the one that is called."""

    lazy_commands: ClassVar[dict[str, LazyCommand]] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, command in self.lazy_commands.items():
            self.add_command(TyperCommand(name, help=command.help))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name in self.lazy_commands:
            command = self.lazy_commands[name].load(name)
        return name, command, rest

    def load_all(self) -> None:
        """Load every command, for who wants to know all there is to them."""
        for name, command in self.lazy_commands.items():
            self.add_command(command.load(name), name)
