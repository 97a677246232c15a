"""`pad token new`: what it makes is what a server's file takes."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pad_client.tokens import TokenScope, new_token
from svc_common.callers import Caller, Scope
from svc_common.tokens import parse_tokens
from tests.client.conftest import Pad

ACME = ["--tenant", "acme", "--scope", "generate"]


async def test_a_new_token_is_shown_once_with_the_line_that_servers_take(pad: Pad) -> None:
    result = await pad("token", "new", *ACME, "--scope", "profiles.read", "--name", "web-1")
    assert result.exit_code == 0
    secret, line = result.stdout.splitlines()
    assert secret not in line
    (entry,) = parse_tokens("X: y", line.encode())
    assert entry.caller == Caller("acme", "web-1", frozenset({Scope.GENERATE, Scope.PROFILES_READ}))
    assert entry.digest == hashlib.sha256(secret.encode()).digest()
    assert entry.expires is None


async def test_a_token_can_go_to_a_file_that_the_owner_alone_can_read(
    pad: Pad, tmp_path: Path
) -> None:
    out = tmp_path / "token"
    result = await pad("token", "new", *ACME, "--days", "30", "--out", str(out))
    assert result.exit_code == 0
    assert out.stat().st_mode & 0o777 == 0o600
    secret = out.read_text().strip()
    assert secret not in result.output
    (line,) = result.stdout.splitlines()
    (entry,) = parse_tokens("X: y", line.encode())
    assert entry.digest == hashlib.sha256(secret.encode()).digest()
    assert entry.caller.name.startswith("acme-")
    assert entry.expires is not None
    assert abs(entry.expires - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=10)
    again = await pad("token", "new", *ACME, "--out", str(out))
    assert again.exit_code == 2
    assert out.read_text().strip() == secret


async def test_what_a_server_would_refuse_is_refused(pad: Pad) -> None:
    for options in (
        ["--tenant", "a:b", "--scope", "generate"],
        [*ACME, "--name", "two words"],
        ["--tenant", "acme", "--scope", "root"],
        ["--tenant", "acme"],
        [*ACME, "--days", "0"],
    ):
        result = await pad("token", "new", *options)
        assert result.exit_code == 2
        assert result.stdout == ""


def test_tokens_are_long_random_and_not_in_their_repr() -> None:
    made = [new_token("t", "n", [TokenScope.SCORE], None) for _ in range(50)]
    assert len({token.secret for token in made}) == 50
    for token in made:
        assert len(token.secret) >= 43
        assert token.secret not in repr(token)
        assert json.loads(token.line)["scopes"] == ["score"]
