"""All commands together, and errors as one line each."""

from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pad_client.access import AccessOptions
from pad_client.cli.connection import (
    CaOption,
    CertOption,
    KeyOption,
    PlaintextTokenOption,
    ServerNameOption,
    TlsOption,
    TokenFileOption,
    read_token,
)
from pad_client.cli.console import report_error
from pad_client.cli.demo import demo
from pad_client.cli.evaluate import evaluate
from pad_client.cli.generate import generate
from pad_client.cli.info import info
from pad_client.cli.playground import playground
from pad_client.cli.profile import profile_app
from pad_client.cli.token import token_app
from pad_client.cli.train import train
from pad_client.cli.up import up
from pad_client.embedded import StackError
from pad_client.errors import PadError


class _Group(TyperGroup):
    """Ends with exit code 1 and one clear message where a call or a child process failed."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (PadError, StackError) as error:
            report_error(error)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"pad {version('pad-serving')}")
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
    context.obj = AccessOptions(
        tls=tls,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
        server_name=server_name,
        token=read_token(token_file),
        token_file=token_file,
        allow_plaintext_token=allow_plaintext_token,
    )


app.command()(generate)
app.add_typer(profile_app, name="profile")
app.add_typer(token_app, name="token")
app.command()(info)
app.command()(up)
app.command()(demo)
app.command()(playground)
app.command()(train)
app.command()(evaluate)
