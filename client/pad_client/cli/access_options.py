"""The options before a command, or their variables: how to reach a server, and as whom."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pad_client.access import AccessOptions


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


def read_access(given: Mapping[str, Any]) -> "AccessOptions":
    """Return the options before a command, as the client takes them.

    There is no option for a token itself, only a variable: every user of a machine can read what
    commands were started with.
    """
    token_file: Path | None = given.get("token_file")
    return {
        "tls": bool(given.get("tls")),
        "ca_file": given.get("ca_file"),
        "cert_file": given.get("cert_file"),
        "key_file": given.get("key_file"),
        "server_name": given.get("server_name"),
        "token": None if token_file is not None else os.environ.get("PAD_TOKEN") or None,
        "token_file": token_file,
        "allow_plaintext_token": bool(given.get("allow_plaintext_token")),
    }
