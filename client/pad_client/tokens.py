"""Makes API tokens: the secret for the caller, and the line by which a server knows it."""

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

NUM_RANDOM_BYTES = 32


class TokenScope(StrEnum):
    """What a caller may do; the same as in the services."""

    GENERATE = "generate"
    PROFILES_READ = "profiles.read"
    PROFILES_WRITE = "profiles.write"
    SCORE = "score"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made.

    Attributes:
        secret: for the caller; nobody can find it again.
        line: for the server's file; the secret does not follow from it.
    """

    secret: str
    line: str

    def __repr__(self) -> str:
        return f"NewToken(line={self.line!r})"


def new_token(
    tenant: str, name: str, scopes: Sequence[TokenScope], lifetime: timedelta | None
) -> NewToken:
    """Return a token of 256 random bits."""
    secret = f"pad_{secrets.token_urlsafe(NUM_RANDOM_BYTES)}"
    entry: dict[str, object] = {
        "name": name,
        "tenant": tenant,
        "scopes": list(dict.fromkeys(scopes)),
        "sha256": hashlib.sha256(secret.encode()).hexdigest(),
    }
    if lifetime is not None:
        expires = (datetime.now(UTC) + lifetime).replace(microsecond=0)
        entry["expires"] = expires.isoformat().replace("+00:00", "Z")
    return NewToken(secret, json.dumps(entry))
