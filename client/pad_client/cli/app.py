"""All commands together, and errors as one line each.

A new command is a row of `COMMANDS`: where its function (or its `typer.Typer`) is, and its line in
`pad --help`, which must be the first line of its docstring (or the Typer's `help`). Its module is
imported when the command runs, or is completed, and may therefore import what it likes; this one
is imported for `pad --help` and at each press of the tab key, and may not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, Any

import typer

from pad_client.cli.access_options import (
    CaOption,
    CertOption,
    KeyOption,
    PlaintextTokenOption,
    ServerNameOption,
    TlsOption,
    TokenFileOption,
    read_access,
)
from pad_client.cli.lazy import LazyCommand, LazyGroup

COMMANDS = {
    "generate": LazyCommand(
        "pad_client.cli.generate:generate",
        "Write text for a user; without --user and --preference it is the base model's own.",
    ),
    "profile": LazyCommand(
        "pad_client.cli.profile:profile_app",
        "Put, edit, undo, list, move and delete user profiles.",
    ),
    "token": LazyCommand("pad_client.cli.token:token_app", "Make API tokens."),
    "info": LazyCommand(
        "pad_client.cli.info:info", "Describe the server: its model, limits and reward replicas."
    ),
    "up": LazyCommand(
        "pad_client.cli.up:up",
        "Run generator, reward service and store on this machine until Ctrl-C.",
    ),
    "doctor": LazyCommand(
        "pad_client.cli.doctor:doctor",
        "Examine this installation and a server, and say what to do; status 1 if something fails.",
    ),
    "demo": LazyCommand(
        "pad_client.cli.demo:demo",
        "Show, on this machine and the bundled models, what profiles do to answers.",
    ),
    "playground": LazyCommand(
        "pad_client.cli.playground:playground",
        "Run a web page to try profiles on, until Ctrl-C.",
    ),
    "train": LazyCommand(
        "pad_client.cli.train:train",
        "Train a personalised reward model; started again after a stop, it goes on.",
    ),
    "evaluate": LazyCommand(
        "pad_client.cli.evaluate:evaluate",
        "Measure what guidance does to replies; writes report.html and evaluation.json.",
    ),
}


# Every mistake on the command line; typer exports but this one of its kinds.
_UsageError: Any = typer.BadParameter.__base__
# Options that people give before the command, as those that say who they are, and what follows.
_OPTIONS_OF_COMMANDS = {
    "-s": " HOST:PORT",
    "--server": " HOST:PORT",
    "--timeout": " SECONDS",
    "--json": "",
}


@contextmanager
def _usage_errors_in_our_words() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        # Some are pydantic's, by which typer checks values.
        error.message = error.message.removeprefix("Value error, ")
        if error.message.startswith("Input should "):
            rule = error.message.removeprefix("Input should ").partition(", unable to parse")[0]
            error.message = f"must {rule}"
        raise


class _Group(LazyGroup):
    """Ends with exit code 1 and one clear message where a call or a child process failed."""

    lazy_commands = COMMANDS

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _usage_errors_in_our_words():
            try:
                return super().parse_args(ctx, args)
            except _UsageError as error:
                option = getattr(error, "option_name", None)
                if option in _OPTIONS_OF_COMMANDS:
                    example = f"pad info {option}{_OPTIONS_OF_COMMANDS[option]}"
                    error.message += f"; give it after the command: {example}"
                    error.possibilities = None
                raise

    def invoke(self, ctx: Any) -> Any:
        # Here, because it loads gRPC: only now it is certain that a command runs.
        from pad_client.cli.console import errors_reported

        with errors_reported(), _usage_errors_in_our_words():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"pad {version('pad-client')}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    tls: TlsOption = False,
    ca_file: CaOption = None,
    cert_file: CertOption = None,
    key_file: KeyOption = None,
    server_name: ServerNameOption = None,
    token_file: TokenFileOption = None,
    allow_plaintext_token: PlaintextTokenOption = False,
) -> None:
    """Text written for a user: guided decoding, profiles, and a server to try them on."""
    context.obj = read_access(context.params)
