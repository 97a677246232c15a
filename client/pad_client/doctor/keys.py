"""Whether certificates, keys and tokens can be used: readable, valid now, and private.

Certificates are tried by a handshake in memory, with the library that would refuse them later.
"""

import json
import ssl
import stat
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pad_client.doctor.findings import Finding, fail, ok, warn
from pad_client.doctor.paths import named_pipes, shown

_SOON = timedelta(days=14)
_EXPIRED, _WRONG_PURPOSE = 10, 26  # X509_V_ERR_...
# What services read their keys from: certificate, key, authorities.
_SERVICE_KEYS = (
    *("GENERATOR_TLS_", "REWARD_TLS_", "GENERATOR_REWARD_"),
    *("GENERATOR_TRACES_", "REWARD_TRACES_", "EDGE_TRACES_"),
    *("EDGE_TLS_", "EDGE_GENERATOR_", "PLAYGROUND_"),
)
_CLIENT_FILES = ("ca_file", "cert_file", "key_file", "token_file")
_SERVICE_TOKENS = ("GENERATOR_TOKENS_FILE", "REWARD_TOKENS_FILE")
_REDIS_PASSWORD = "GENERATOR_REDIS_PASSWORD_FILE"
_SERVICE_SECRETS = ("GENERATOR_REWARD_TOKEN_FILE", _REDIS_PASSWORD, "PLAYGROUND_TOKEN_FILE")
_KINDS = ("CERT", "KEY", "CA", "CLIENT_CA")
SERVICE_KEY_FILES = (
    *_SERVICE_TOKENS,
    *_SERVICE_SECRETS,
    *(f"{prefix}{kind}_FILE" for prefix in _SERVICE_KEYS for kind in _KINDS),
)


def check_client_keys(access: Mapping[str, Any]) -> Iterator[Finding]:
    """Look at the files of a client's `AccessOptions`."""
    pipes = named_pipes(access, _CLIENT_FILES)
    for name in pipes:  # what is read of it here, nobody else could read any more
        yield warn(f"keys.{name}", "is a pipe, not examined", "name a file to have it examined")
    access = _without(access, pipes)
    if access.get("ca_file"):
        yield from _check_authorities("keys.ca_file", Path(access["ca_file"]))
    cert, key = access.get("cert_file"), access.get("key_file")
    yield from _check_both("keys.cert_file", "--cert-file", cert, "--key-file", key)
    if access.get("token_file"):
        yield _check_secret("keys.token_file", Path(access["token_file"]))


def check_service_keys(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look at the files that the services' variables name."""
    pipes = named_pipes(environment, SERVICE_KEY_FILES)
    for name in pipes:
        yield fail(f"keys.{name}", f"{name}: must be a file, is a pipe", "name a file")
    environment = _without(environment, pipes)
    for prefix in _SERVICE_KEYS:
        cert, key = (environment.get(f"{prefix}{kind}_FILE") for kind in ("CERT", "KEY"))
        names = f"{prefix}CERT_FILE", f"{prefix}KEY_FILE"
        yield from _check_both(f"keys.{names[0]}", names[0], cert, names[1], key)
        for kind in ("CA", "CLIENT_CA"):
            if authorities := environment.get(f"{prefix}{kind}_FILE"):
                yield from _check_authorities(f"keys.{prefix}{kind}_FILE", Path(authorities))
    for name in _SERVICE_SECRETS:
        if path := environment.get(name):
            yield _check_secret(f"keys.{name}", Path(path))
    for name in _SERVICE_TOKENS:
        if path := environment.get(name):
            yield _check_tokens(f"keys.{name}", Path(path))


def _without(given: Mapping[str, Any], pipes: Sequence[str]) -> dict[str, Any]:
    """Return what is to be examined: of a certificate and its key both, or neither."""
    left_out = set(pipes)
    for half, other in (("cert_", "key_"), ("key_", "cert_"), ("CERT_", "KEY_"), ("KEY_", "CERT_")):
        left_out |= {name.replace(half, other) for name in pipes}
    return {name: value for name, value in given.items() if name not in left_out}


def _check_both(
    check: str, cert_name: str, cert: Any, key_name: str, key: Any
) -> Iterator[Finding]:
    """Look at a certificate and its key; one alone stops whoever is given it."""
    if cert and key:
        yield from _check_pair(check, Path(cert), Path(key))
    elif cert or key:
        given, missing = (cert_name, key_name) if cert else (key_name, cert_name)
        yield fail(check, f"{given} is set, {missing} is not", f"set {missing} too, or neither")


def _check_pair(check: str, cert: Path, key: Path) -> Iterator[Finding]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        for path in (cert, key):
            path.read_bytes()
        server.load_cert_chain(cert, key, password=lambda: "")  # or it would ask at the terminal
    except ssl.SSLError as error:
        reason = error.reason or "not PEM, or the key has a password"
        yield fail(
            check, f"{cert} and {key} are no pair: {reason}", "issue both again, without password"
        )
        return
    except OSError as error:
        yield fail(
            check,
            f"{shown(Path(error.filename))}: {error.strerror}",
            "correct the path, or its mode",
        )
        return
    try:
        yield _judge(check, cert, _expiry(server, cert))
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            advice = "issue it again; it is read anew when the file changes"
            yield fail(check, f"{cert}: {error.verify_message}", advice)
        elif error.verify_code == _WRONG_PURPOSE:  # of a client alone: valid, but not shown to us
            yield ok(check, f"{cert}: for clients")
        else:
            yield fail(check, f"{cert}: {error.verify_message}", "issue it again, or set the clock")
    if stat.S_IMODE(key.stat().st_mode) & 0o077:
        yield warn(f"{check}.mode", f"{key} can be read by others", f"chmod 600 {key}")


def _expiry(server: ssl.SSLContext, cert: Path) -> datetime:
    """Return the end of a certificate's life, as a client that trusts it sees it in a handshake."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is the anchor
    client.load_verify_locations(cert)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (asking, answering, asking, answering):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    shown = asking.getpeercert()
    assert shown is not None  # the handshake is complete, and the certificate was asked for
    return _date(shown["notAfter"])


def _check_authorities(check: str, path: Path) -> Iterator[Finding]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        yield fail(
            check, f"{path}: holds no certificate: {error.reason}", "give a file in PEM form"
        )
        return
    except OSError as error:
        yield fail(check, f"{shown(path)}: {error.strerror}", "correct the path, or its mode")
        return
    ends = [_date(each["notAfter"]) for each in context.get_ca_certs()]
    if ends:
        yield _judge(check, path, min(ends))
    else:
        yield warn(check, f"{path}: holds no authority", "give the certificate that signed them")


def _judge(check: str, path: Path, end: datetime) -> Finding:
    found = f"{path}: valid until {end:%Y-%m-%d %H:%M} UTC"
    left = end - datetime.now(UTC)
    if left < timedelta(0):
        return fail(check, f"{path}: expired {end:%Y-%m-%d %H:%M} UTC", "issue it again")
    if left < _SOON:
        return warn(check, found, "issue it again in time; it is read anew when it changes")
    return ok(check, found)


def _date(text: object) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(text)), UTC)


def _check_secret(check: str, path: Path) -> Finding:
    # What travels as metadata of a call is ASCII; Redis takes any password.
    encoding = "utf-8" if check == f"keys.{_REDIS_PASSWORD}" else "ascii"
    try:
        content = path.read_text(encoding=encoding).strip()
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return _unread(check, error)
    except UnicodeDecodeError:
        content = ""
    if not content or "\n" in content:
        return fail(check, f"{path}: must hold one secret and nothing else", "write it again")
    if mode & 0o077:
        return warn(check, f"{path} can be read by others", f"chmod 600 {path}")
    return ok(check, f"{path}: readable, private")


def _unread(check: str, error: OSError) -> Finding:
    """Tell it without the path: that may be the secret itself, where its file should be named."""
    found = f"the file that it names cannot be read: {error.strerror}"
    return fail(check, found, "correct the path, or its mode; the secret stands in the file")


def _check_tokens(check: str, path: Path) -> Finding:
    """Look at a server's file of tokens: JSON lines with hashes."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines if line.strip() and line[0] != "#"]
        expired = [str(each["name"]) for each in entries if _is_over(each.get("expires"))]
    except OSError as error:
        return _unread(check, error)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        return fail(check, f"{path}: is not JSON lines of tokens: {error}", "pad token new")
    if expired:
        found = f"{path}: expired: {', '.join(expired)}"
        return warn(check, found, "pad token new, for callers that still need one")
    return ok(check, f"{path}: {len(entries)} tokens, none expired")


def _is_over(expires: str | None) -> bool:
    return expires is not None and datetime.fromisoformat(expires) < datetime.now(UTC)
