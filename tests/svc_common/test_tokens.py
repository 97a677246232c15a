"""API tokens on a real server: who gets in, what is said to who does not, and files that change."""

import hashlib
import json
import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from svc_common.access import access
from svc_common.callers import Scope, current_caller
from svc_common.settings import SettingsError
from svc_common.tokens import TokenFile, parse_tokens
from tests.svc_common.small_service import NAME, OPTIONS, running

TOKEN, SECOND = "pad_first-secret-0123456789", "pad_second-secret-0123456789"
HOUR = timedelta(hours=1)


def line(token=TOKEN, **fields):
    entry = {
        "name": "web-1",
        "tenant": "acme",
        "scopes": ["generate"],
        "sha256": hashlib.sha256(token.encode()).hexdigest(),
    }
    return json.dumps({k: v for k, v in (entry | fields).items() if v is not None}) + "\n"


async def who(request, context):
    caller = current_caller()
    return f"{caller.tenant} {caller.name}".encode()


@asynccontextmanager
async def serving(path, scope=Scope.GENERATE):
    tokens = TokenFile("TEST_TOKENS_FILE", str(path))
    identify = access({f"{NAME}/unary": scope}, tokens.caller)
    async with running(replace(OPTIONS, identify=identify), unary=who) as up:

        async def call(*headers):
            metadata = [("authorization", header) for header in headers]
            try:
                return (await up.call("unary")(b"", metadata=metadata, timeout=20)).decode()
            except grpc.aio.AioRpcError as error:
                return f"{error.code().name}: {error.details()}"

        yield call


async def test_a_token_stands_for_its_tenant_and_several_may_stand_for_one(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(
        f"# web servers\n\n{line()}{line(SECOND, name='web-2')}"
        + line("third-secret", tenant="umbrella")
    )
    async with serving(path) as call:
        assert await call(f"Bearer {TOKEN}") == "acme web-1"
        assert await call(f"bearer {SECOND}") == "acme web-2"
        assert await call("Bearer third-secret") == "umbrella web-1"


async def test_who_shows_no_valid_token_is_told_the_rule_and_never_what_was_sent(tmp_path, caplog):
    path = tmp_path / "tokens"
    path.write_text(line() + line(SECOND, name="old", expires="2020-01-01T00:00:00Z"))
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    form = "UNAUTHENTICATED: authorization: must be sent once, as `Bearer TOKEN`"
    unknown = "UNAUTHENTICATED: authorization: must hold a token that this server knows"
    cases = [
        ([], f"{form}, got none"),
        ([f"Bearer {TOKEN}", f"Bearer {TOKEN}"], f"{form}, got 2"),
        ([TOKEN], f"{form}, got another form"),
        ([f"Basic {TOKEN}"], f"{form}, got another form"),
        (["Bearer "], f"{form}, got another form"),
        (["Bearer " + 513 * "x"], f"{form}, got another form"),
        ([f"Bearer {digest}"], unknown),
        ([f"Bearer {TOKEN[:-1]}"], unknown),
        ([f"Bearer {TOKEN}x"], unknown),
        ([f"Bearer {TOKEN.upper()}"], unknown),
        (
            [f"Bearer {SECOND}"],
            "UNAUTHENTICATED: authorization: the token old must not be older than"
            " 2020-01-01T00:00:00+00:00",
        ),
    ]
    with caplog.at_level(logging.DEBUG):
        async with serving(path) as call:
            for headers, expected in cases:
                assert await call(*headers) == expected
    for secret in (TOKEN[:-1], SECOND, digest):
        assert secret not in caplog.text
        assert all(secret not in str(vars(record)) for record in caplog.records)


async def test_a_token_without_the_scope_may_not_call(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(line(scopes=["profiles.read", "admin"]))
    async with serving(path) as call:
        assert await call(f"Bearer {TOKEN}") == (
            f"PERMISSION_DENIED: {NAME}/unary: must be called with the scope generate,"
            " web-1 has admin, profiles.read"
        )


async def test_a_token_expires_at_its_time(tmp_path):
    path = tmp_path / "tokens"
    later = (datetime.now(UTC) + HOUR).isoformat()
    earlier = (datetime.now(UTC) - HOUR).isoformat()
    path.write_text(line(expires=later) + line(SECOND, name="old", expires=earlier))
    async with serving(path) as call:
        assert await call(f"Bearer {TOKEN}") == "acme web-1"
        assert (await call(f"Bearer {SECOND}")).startswith("UNAUTHENTICATED")


async def test_a_changed_file_holds_from_the_next_call_on(tmp_path):
    path, new = tmp_path / "tokens", tmp_path / "new"
    path.write_text(line())
    async with serving(path) as call:
        assert (await call(f"Bearer {SECOND}")).startswith("UNAUTHENTICATED")
        new.write_text(line() + line(SECOND, name="web-2"))
        new.replace(path)
        assert await call(f"Bearer {SECOND}") == "acme web-2"
        assert await call(f"Bearer {TOKEN}") == "acme web-1"
        new.write_text(line(SECOND, name="web-2"))
        new.replace(path)
        assert (await call(f"Bearer {TOKEN}")).startswith("UNAUTHENTICATED")


@pytest.mark.parametrize("content", [TOKEN, line(tenant="a:b"), "", None])
async def test_a_bad_new_file_leaves_the_old_tokens_and_is_logged_without_them(
    tmp_path, caplog, content
):
    path = tmp_path / "tokens"
    path.write_text(line())
    async with serving(path) as call:
        path.unlink() if content is None else path.write_text(content)
        with caplog.at_level(logging.INFO, "svc_common.watched_files"):
            assert await call(f"Bearer {TOKEN}") == "acme web-1"
            assert await call(f"Bearer {TOKEN}") == "acme web-1"
        (record,) = caplog.records
        assert record.levelname == "ERROR"
        assert "TEST_TOKENS_FILE" in record.reason
        assert TOKEN not in str(vars(record))
        path.write_text(line(SECOND))
        assert await call(f"Bearer {SECOND}") == "acme web-1"


SHA256 = hashlib.sha256(b"other").hexdigest()


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (TOKEN, "line 1: must be a JSON object with name, scopes, sha256, tenant"),
        (f"\n# x\n[{json.dumps(TOKEN)}]", "line 3: must be a JSON object"),
        (line(name=None), "line 1: must have the fields"),
        (line(sha256=None), "may have expires, lacks sha256"),
        (line(token=TOKEN) + line(SECOND, name="x", secret=TOKEN), "line 2: must have the fields"),
        (line(tenant="a:b"), "line 1: tenant: must be 1..64 letters"),
        (line(tenant=""), "line 1: tenant: must be 1..64 letters"),
        (line(tenant="a}b"), "line 1: tenant: must be 1..64 letters"),
        (line(tenant="a\n"), "line 1: tenant: must be 1..64 letters"),
        (line(name=7), "line 1: name: must be 1..64 letters"),
        (line(sha256=TOKEN), "line 1: sha256: must be 64 hexadecimal digits"),
        (line(scopes=[]), "line 1: scopes: must be a list of admin | generate"),
        (line(scopes="generate"), "line 1: scopes: must be a list of"),
        (line(scopes=["root"]), "line 1: scopes: must be a list of"),
        (line(expires="tomorrow"), "line 1: expires: must be like 2027-06-30T00:00:00Z"),
        (line(expires="2027-06-30T00:00:00"), "line 1: expires: must be like"),
        (line() + line(name="x"), "line 2: must have a name and a token of its own, shares one"),
        (line() + line(SECOND), "line 2: must have a name and a token of its own, shares one"),
        (b"\xff\xfe", "must be UTF-8 text"),
    ],
)
def test_a_bad_line_is_named_by_its_number_and_never_quoted(content, rule):
    data = content if isinstance(content, bytes) else content.encode()
    with pytest.raises(SettingsError) as caught:
        parse_tokens("TEST_TOKENS_FILE: tokens", data)
    message = str(caught.value)
    assert message.startswith("TEST_TOKENS_FILE: tokens: ")
    assert rule in message
    assert TOKEN not in message
    assert caught.value.__cause__ is None or TOKEN not in str(caught.value.__cause__)


ENTRIES = st.fixed_dictionaries(
    {
        "name": st.one_of(st.just("n"), st.text(max_size=3), st.none()),
        "tenant": st.one_of(st.just("t"), st.text(max_size=3), st.integers()),
        "scopes": st.one_of(st.just(["admin"]), st.lists(st.text(max_size=3)), st.booleans()),
        "sha256": st.one_of(st.just(SHA256), st.text(max_size=70)),
    },
    optional={"expires": st.one_of(st.text(max_size=20), st.datetimes().map(str), st.none())},
)


@given(st.one_of(st.binary(max_size=200), ENTRIES.map(lambda entry: json.dumps(entry).encode())))
@example(b"[" * 100_000)
@example(b'{"name": ' + b"9" * 10_000 + b"}")
def test_any_file_is_taken_or_refused_and_breaks_nothing(content):
    """A changed file is read while callers wait: any other error would be an answer to them."""
    try:
        entries = parse_tokens("X", content)
    except SettingsError:
        return
    assert all(entry.caller.tenant.isascii() and entry.caller.scopes for entry in entries)


def test_a_file_of_comments_lets_nobody_in():
    assert parse_tokens("X: y", b"# none yet\n") == ()
