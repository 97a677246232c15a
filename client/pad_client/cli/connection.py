"""How commands reach a server: the options before the command, or their variables."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pad_client.access import AccessOptions
from pad_client.aio import AsyncGeneratorClient
from pad_client.client import GeneratorClient


def _file(flag: str, variable: str, help: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(flag, envvar=variable, metavar="FILE", help=help)
    return option


TlsOption = Annotated[
    bool, typer.Option("--tls", envvar="PAD_TLS", help="Encrypt; implied by the files below.")
]
CaOption = Annotated[
    Path | None,
    _file("--ca-file", "PAD_CA_FILE", "Authorities of the server's certificate, PEM."),
]
CertOption = Annotated[Path | None, _file("--cert-file", "PAD_CERT_FILE", "Own certificate, PEM.")]
KeyOption = Annotated[Path | None, _file("--key-file", "PAD_KEY_FILE", "Its private key, PEM.")]
ServerNameOption = Annotated[
    str | None,
    typer.Option(
        "--server-name", envvar="PAD_SERVER_NAME", help="In its certificate, if not its host."
    ),
]
TokenFileOption = Annotated[
    Path | None,
    _file("--token-file", "PAD_TOKEN_FILE", "Holds the API token; else PAD_TOKEN is the token."),
]
PlaintextTokenOption = Annotated[
    bool,
    typer.Option(
        "--allow-plaintext-token",
        envvar="PAD_ALLOW_PLAINTEXT_TOKEN",
        help="Send the token unencrypted to another machine.",
    ),
]


def read_token(token_file: Path | None) -> str | None:
    """Return the token in the environment, unless a file holds it.

    There is no option for it: every user of a machine can read what commands were started with.
    """
    return None if token_file is not None else os.environ.get("PAD_TOKEN") or None


def connect_async(context: typer.Context, server: str, timeout_s: float) -> AsyncGeneratorClient:
    """Return what `connect` does, for an event loop."""
    access: AccessOptions = AccessOptions() if context.obj is None else context.obj
    return AsyncGeneratorClient(server, timeout_s=timeout_s, **access)


def connect(context: typer.Context, server: str, timeout_s: float) -> GeneratorClient:
    """Return a client that shows what the options before the command say."""
    access: AccessOptions = AccessOptions() if context.obj is None else context.obj
    return GeneratorClient(server, timeout_s=timeout_s, **access)
