"""TLS keys from files: checked at the start, and read anew when they change."""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import grpc

from svc_common.settings import SettingsError
from svc_common.watched_files import WatchedFiles, read_secret_file


@dataclass(frozen=True)
class TlsFiles:
    """Where a side of TLS has its keys, and the settings that say so, for messages.

    Attributes:
        prefix: What the names of the settings begin with: `CERT_FILE`, ... follow.
        cert: Own certificate chain, PEM; empty for none.
        key: Its private key, PEM, without a password.
        ca: Certificates of the authorities that the other side's certificate must come from;
            empty for none.
        ca_setting: What the name of the setting of `ca` ends with.
    """

    prefix: str
    cert: str
    key: str
    ca: str
    ca_setting: str = "CA_FILE"

    def setting(self, name: str) -> str:
        return f"{self.prefix}{name}"

    @property
    def paths(self) -> list[str]:
        return [path for path in (self.cert, self.key, self.ca) if path]


class ServerTlsSettings(Protocol):
    """What both services' settings say of their own server's keys."""

    @property
    def tls_cert_file(self) -> str: ...

    @property
    def tls_key_file(self) -> str: ...

    @property
    def tls_client_ca_file(self) -> str: ...


def server_files(prefix: str, settings: ServerTlsSettings) -> TlsFiles:
    """Return where a service's server has its keys; `prefix` is that of its settings."""
    return TlsFiles(
        f"{prefix}TLS_",
        settings.tls_cert_file,
        settings.tls_key_file,
        settings.tls_client_ca_file,
        "CLIENT_CA_FILE",
    )


@dataclass(frozen=True)
class _Keys:
    cert: bytes | None
    key: bytes | None
    ca: bytes | None


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials | None:
    """Return a server's keys, or none for plain text; with a CA, callers must show a certificate.

    New connections get the keys that the files hold then; running connections go on.

    Raises:
        SettingsError: Settings are missing, or a file cannot be used.
    """
    if not files.cert and not files.key:
        if files.ca:
            raise _missing(files, "CERT_FILE", files.ca_setting)
        return None
    watched = WatchedFiles(files.paths, lambda: _read(files))
    told = watched.current

    def newer() -> grpc.ServerCertificateConfiguration | None:
        nonlocal told
        keys = watched.current
        if keys is told:
            return None
        told = keys
        return _configuration(keys)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(told),
        newer,  # type: ignore[arg-type] # its None means: as before
        require_client_authentication=bool(files.ca),
    )


def client_credentials(files: TlsFiles) -> Callable[[], grpc.ChannelCredentials] | None:
    """Return what gives the credentials of a new connection, or none for plain text.

    They stay the same object for as long as the files stay as they are.

    Raises:
        SettingsError: Settings are missing, or a file cannot be used.
    """
    if not files.ca:
        if files.paths:
            raise _missing(files, files.ca_setting, "CERT_FILE" if files.cert else "KEY_FILE")
        return None

    def read() -> grpc.ChannelCredentials:
        keys = _read(files)
        return grpc.ssl_channel_credentials(keys.ca, keys.key, keys.cert)

    watched = WatchedFiles(files.paths, read)
    return lambda: watched.current


def server_context(files: TlsFiles) -> ssl.SSLContext | None:
    """Return the keys of a server that is none of gRPC, or none for plain text.

    As with gRPC's, new connections get the keys that the files hold then; a client that asks for a
    server by name and one that does not are served alike.

    Raises:
        SettingsError: Settings are missing, or a file cannot be used.
    """
    if not files.paths:
        return None

    def read() -> ssl.SSLContext:
        keys = _read(files)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(files.cert, files.key)
        _check_unchanged(files, keys)
        return context

    watched = WatchedFiles(files.paths, read)

    def take_newest(connection: ssl.SSLObject | ssl.SSLSocket, *_: object) -> None:
        connection.context = watched.current

    door = watched.current  # stays: each handshake begins with it and goes on with the newest
    door.sni_callback = take_newest
    return door


def _configuration(keys: _Keys) -> grpc.ServerCertificateConfiguration:
    assert keys.key is not None
    assert keys.cert is not None
    return grpc.ssl_server_certificate_configuration([(keys.key, keys.cert)], keys.ca)


def _missing(files: TlsFiles, name: str, given: str) -> SettingsError:
    return SettingsError(f"{files.setting(name)}: must be set where {files.setting(given)} is")


def _read(files: TlsFiles) -> _Keys:
    """Return what the files hold.

    Raises:
        SettingsError: A file is missing, cannot be used, or does not fit the others.
    """
    if files.cert and not files.key:
        raise _missing(files, "KEY_FILE", "CERT_FILE")
    if files.key and not files.cert:
        raise _missing(files, "CERT_FILE", "KEY_FILE")
    keys = _read_bytes(files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if files.ca:
        _check_authorities(files, context)
    if files.cert:
        _check_pair(files, context)
    _check_unchanged(files, keys)
    return keys


def _check_unchanged(files: TlsFiles, keys: _Keys) -> None:
    if _read_bytes(files) != keys:
        raise SettingsError(f"{files.prefix}*: must not change while it is read")


def _read_bytes(files: TlsFiles) -> _Keys:
    names = ("CERT_FILE", "KEY_FILE", files.ca_setting)
    paths = (files.cert, files.key, files.ca)
    return _Keys(
        *(
            read_secret_file(files.setting(name), path) if path else None
            for name, path in zip(names, paths, strict=True)
        )
    )


def _check_authorities(files: TlsFiles, context: ssl.SSLContext) -> None:
    try:
        context.load_verify_locations(cafile=files.ca)
    except (ssl.SSLError, OSError) as error:
        rule = "must hold certificates in PEM form"
        raise SettingsError(f"{files.setting(files.ca_setting)}: {rule}, got {files.ca}") from error


def _check_pair(files: TlsFiles, context: ssl.SSLContext) -> None:
    def no_password() -> NoReturn:
        raise SettingsError(
            f"{files.setting('KEY_FILE')}: must have no password, got {files.key} with one"
        )

    if not _holds(files.cert, b"CERTIFICATE"):
        raise SettingsError(
            f"{files.setting('CERT_FILE')}: must hold a certificate in PEM form, got {files.cert}"
        )
    if not _holds(files.key, b"PRIVATE KEY"):
        raise SettingsError(
            f"{files.setting('KEY_FILE')}: must hold a private key in PEM form, got {files.key}"
        )
    try:
        context.load_cert_chain(files.cert, files.key, password=no_password)
    except (ssl.SSLError, OSError) as error:
        rule = f"must be the key of the certificate in {files.setting('CERT_FILE')}={files.cert}"
        raise SettingsError(
            f"{files.setting('KEY_FILE')}: {rule}, got {files.key}: {_reason(error)}"
        ) from error


def _holds(path: str, kind: bytes) -> bool:
    return any(
        line.startswith(b"-----BEGIN ") and line.rstrip().endswith(kind + b"-----")
        for line in Path(path).read_bytes().splitlines()
    )


def _reason(error: Exception) -> str:
    reasons: Sequence[str | None] = (getattr(error, "reason", None), type(error).__name__)
    return next(reason for reason in reasons if reason).lower().replace("_", " ")
