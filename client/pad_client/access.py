"""How a client shows who it is: keys for TLS and a token, both from files where possible."""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, TypedDict

import grpc

from pad_client.errors import AccessDeniedError, InvalidRequestError
from pad_client.trace_context import TRACEPARENT_KEY, Metadata, current_trace

FilePath: TypeAlias = str | Path
_AUTHORIZATION_KEY = "authorization"


class AccessOptions(TypedDict, total=False):
    """What a server asks for before it answers; files are PEM but for the token's.

    Attributes:
        tls: encrypt, and trust the authorities that gRPC brings along; implied by the files below.
        ca_file: authorities that the server's certificate must come from.
        cert_file: own certificate chain, where the server asks callers for one.
        key_file: its private key.
        server_name: in the server's certificate, if not the host of the address.
        token: API token. Better is `token_file`: what is in code ends up in logs.
        token_file: holds the token and nothing else; read at each call, so that it can be replaced.
        allow_plaintext_token: send a token unencrypted to another machine, to be read on the way.
    """

    tls: bool
    ca_file: FilePath | None
    cert_file: FilePath | None
    key_file: FilePath | None
    server_name: str | None
    token: str | None
    token_file: FilePath | None
    allow_plaintext_token: bool


class Access:
    """The checked `AccessOptions` of a client, and what comes of them."""

    def __init__(
        self,
        target: object,
        credentials: grpc.ChannelCredentials | None,
        metadata: Sequence[tuple[str, str]],
        options: AccessOptions,
    ) -> None:
        """Check what the caller gave.

        Raises:
            InvalidRequestError: Options contradict each other, a file cannot be read, or a token
                would be sent in the clear to another machine.
        """
        self._metadata = tuple(metadata)
        self._token = options.get("token")
        self._token_file = options.get("token_file")
        if self._token is not None and self._token_file is not None:
            raise InvalidRequestError("token, token_file: at most one must be given")
        self.credentials = credentials if credentials is not None else _credentials(options)
        if credentials is not None and _asks_for_tls(options):
            raise InvalidRequestError("credentials, ca_file: at most one must be given")
        if not _addresses(target) and self.credentials is not None:
            raise InvalidRequestError("target: must be an address where keys are given")
        if options.get("server_name") and self.credentials is None:
            raise InvalidRequestError("server_name: must be given with ca_file or tls")
        self.server_name = options.get("server_name") or ""
        is_secret = self._token is not None or self._token_file is not None
        is_secret |= any(key.lower() == _AUTHORIZATION_KEY for key, _ in self._metadata)
        addresses = _addresses(target)
        is_local = bool(addresses) and all(_is_loopback(address) for address in addresses)
        is_safe = self.credentials is not None or is_local
        if is_secret and not is_safe and not options.get("allow_plaintext_token"):
            raise InvalidRequestError(
                f"token: must not be sent in the clear, got {_shown(target)} without TLS; give"
                " ca_file or tls, or allow_plaintext_token"
            )
        self.metadata()  # a bad token file is told at once

    def channel_options(
        self, options: Sequence[tuple[str, int | str]]
    ) -> list[tuple[str, int | str]]:
        """Return the options of a channel, with the server's name added."""
        named = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        return [*options, *named]

    def trace(self) -> Metadata:
        """Return what tells of the caller's current span, unless `metadata` names one itself."""
        has_own = any(key.lower() == TRACEPARENT_KEY for key, _ in self._metadata)
        return () if has_own else current_trace()

    def metadata(self, trace: Metadata = ()) -> Metadata:
        """Return what a call carries, as part of a trace.

        Raises:
            AccessDeniedError: The token's file cannot be read.
            InvalidRequestError: The token is none.
        """
        token = self._token
        if self._token_file is not None:
            token = _read_token(Path(self._token_file))
        elif token is not None and not _is_token(token):
            raise InvalidRequestError("token: must be ASCII characters without spaces")
        metadata = (*self._metadata, *trace)
        if token is None:
            return metadata
        return (*metadata, (_AUTHORIZATION_KEY, f"Bearer {token}"))


def _asks_for_tls(options: AccessOptions) -> bool:
    files = (options.get("ca_file"), options.get("cert_file"), options.get("key_file"))
    return bool(options.get("tls")) or any(file is not None for file in files)


def _credentials(options: AccessOptions) -> grpc.ChannelCredentials | None:
    if not _asks_for_tls(options):
        return None
    ca_file, cert_file, key_file = (
        options.get("ca_file"),
        options.get("cert_file"),
        options.get("key_file"),
    )
    if (cert_file is None) != (key_file is None):
        raise InvalidRequestError("cert_file, key_file: both or none must be given")
    return grpc.ssl_channel_credentials(
        None if ca_file is None else _read("ca_file", ca_file),
        None if key_file is None else _read("key_file", key_file),
        None if cert_file is None else _read("cert_file", cert_file),
    )


def _read(option: str, path: FilePath) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        rule = f"must be a readable file, got {path}: {error.strerror}"
        raise InvalidRequestError(f"{option}: {rule}") from error
    if b"-----BEGIN " not in content:
        raise InvalidRequestError(f"{option}: must be a file in PEM form, got {path}")
    return content


def _read_token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        rule = f"must be a readable file, got {path}: {error.strerror}"
        raise AccessDeniedError(f"token_file: {rule}") from error
    except UnicodeDecodeError:
        token = ""
    if not _is_token(token):
        raise AccessDeniedError(f"token_file: must hold one token and nothing else, got {path}")
    return token


def _is_token(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def _addresses(target: object) -> list[str]:
    """Return the addresses of a target; an open channel does not say where it goes: none."""
    if isinstance(target, str):
        several = target.split(",")
    elif isinstance(target, Sequence):
        several = [str(address) for address in target]
    else:
        return []
    return [address.strip() for address in several]


def _is_loopback(target: str) -> bool:
    if target.startswith("unix:"):
        return True
    host = target.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name, whatever it looks like


def _shown(target: object) -> str:
    return ", ".join(_addresses(target)) or "an open channel"
