"""API tokens: a file that knows their hashes, whom each stands for, and what that one may do.

The file is JSON lines; empty lines and lines that begin with # are left out:

    {"name": "web-1", "tenant": "acme", "scopes": ["generate"], "sha256": "...",
     "expires": "2027-06-30T00:00:00Z"}

A token is 256 random bits, so that a plain SHA-256 of it can neither be guessed nor looked up:
what makes a hash slow protects words that people choose, and would only slow down each call.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from svc_common.callers import Caller, Context, Scope
from svc_common.errors import UnauthenticatedError
from svc_common.settings import SettingsError
from svc_common.watched_files import WatchedFiles, read_secret_file

AUTHORIZATION_KEY = "authorization"
MAX_TOKEN_CHARACTERS = 512
NAME_RULE = "1..64 letters, digits, '.', '_' or '-'"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"name", "tenant", "scopes", "sha256"}
_OPTIONAL_FIELDS = {"expires"}


@dataclass(frozen=True)
class TokenEntry:
    """A token as the file knows it."""

    digest: bytes
    caller: Caller
    expires: datetime | None


class TokenFile:
    """The tokens of a file, read anew when it changes."""

    def __init__(self, setting: str, path: str) -> None:
        """Read the file.

        Raises:
            SettingsError: It cannot be read, or a line is not one of a token.
        """
        self._entries = WatchedFiles(
            [path], lambda: parse_tokens(f"{setting}: {path}", read_secret_file(setting, path))
        )

    def caller(self, context: Context) -> Caller:
        """Return whoever the call's token stands for.

        Raises:
            UnauthenticatedError: There is no token, or it is none of ours, or not any more.
        """
        digest = hashlib.sha256(_sent_token(context).encode()).digest()
        found = None
        for entry in self._entries.current:  # all of them: how long it takes tells nothing
            if hmac.compare_digest(entry.digest, digest):
                found = entry
        if found is None:
            raise UnauthenticatedError("authorization: must hold a token that this server knows")
        if found.expires is not None and found.expires <= datetime.now(UTC):
            raise UnauthenticatedError(
                f"authorization: the token {found.caller.name} must not be older than"
                f" {found.expires.isoformat()}"
            )
        return found.caller


def is_name(text: str) -> bool:
    """Tell whether a text can name a tenant or a token."""
    return _NAME.fullmatch(text) is not None


def _sent_token(context: Context) -> str:
    """Return the token of the call's metadata.

    Raises:
        UnauthenticatedError: It is missing, or sent otherwise than once and as `Bearer TOKEN`.
    """
    values = [
        value for key, value in context.invocation_metadata() or () if key == AUTHORIZATION_KEY
    ]
    form = "authorization: must be sent once, as `Bearer TOKEN`"
    if len(values) != 1:
        raise UnauthenticatedError(f"{form}, got {len(values) or 'none'}")
    scheme, _, token = str(values[0]).partition(" ")
    if scheme.lower() != "bearer" or not 1 <= len(token) <= MAX_TOKEN_CHARACTERS:
        raise UnauthenticatedError(f"{form}, got another form")
    return token


def parse_tokens(where: str, content: bytes) -> tuple[TokenEntry, ...]:
    """Return the entries of a tokens file.

    Args:
        where: The setting and the file, for messages; they never quote a line.
        content: Of the file.

    Raises:
        SettingsError: A line is no entry, or two have one token or one name.
    """
    entries: list[TokenEntry] = []
    places: dict[object, int] = {}
    for number, line in _lines(where, content):
        entry = _entry(f"{where}: line {number}", line)
        for key in (entry.digest, (entry.caller.tenant, entry.caller.name)):
            if key in places:
                raise SettingsError(
                    f"{where}: line {number}: must have a name and a token of its own,"
                    f" shares one with line {places[key]}"
                )
            places[key] = number
        entries.append(entry)
    return tuple(entries)


def _lines(where: str, content: bytes) -> Iterator[tuple[int, str]]:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{where}: must be UTF-8 text") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line


def _entry(where: str, line: str) -> TokenEntry:
    try:
        values: Any = json.loads(line)
    except (ValueError, RecursionError):  # the latter: brackets without end
        values = None
    if not isinstance(values, dict):  # the text may be a token itself: no cause, no quote
        raise SettingsError(f"{where}: must be a JSON object with {', '.join(sorted(_FIELDS))}")
    missing = _FIELDS - values.keys()
    if missing or values.keys() - _FIELDS - _OPTIONAL_FIELDS:
        raise SettingsError(
            f"{where}: must have the fields {', '.join(sorted(_FIELDS))}, may have expires,"
            f" {'lacks ' + ', '.join(sorted(missing)) if missing else 'has others'}"
        )
    for field in ("name", "tenant"):
        if not isinstance(values[field], str) or not is_name(values[field]):
            raise SettingsError(f"{where}: {field}: must be {NAME_RULE}")
    digest = values["sha256"]
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise SettingsError(f"{where}: sha256: must be 64 hexadecimal digits in lower case")
    caller = Caller(values["tenant"], values["name"], _scopes(where, values["scopes"]))
    return TokenEntry(bytes.fromhex(digest), caller, _expiry(where, values.get("expires")))


def _scopes(where: str, values: Any) -> frozenset[Scope]:
    allowed = {str(scope) for scope in Scope}
    is_list = isinstance(values, list) and all(isinstance(value, str) for value in values)
    if not is_list or not values or not set(values) <= allowed:
        raise SettingsError(f"{where}: scopes: must be a list of {' | '.join(sorted(allowed))}")
    return frozenset(Scope(value) for value in values)


def _expiry(where: str, value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        expires = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        expires = None
    if expires is None or expires.tzinfo is None:
        raise SettingsError(f"{where}: expires: must be like 2027-06-30T00:00:00Z, with a zone")
    return expires
