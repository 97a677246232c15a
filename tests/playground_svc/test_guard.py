"""Who may use the page: itself, under its own name. And what browsers are told about it."""

import json
import re
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from playground_svc.app import STATIC
from playground_svc.guard import ROUTES
from tests.playground_svc.playgrounds import ASK, ask, running_playground

MAX_PAGE_BYTES = 150_000


@pytest.fixture
def port(address: str) -> str:
    return address.partition(":")[2]


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_the_page_is_served_under_names_of_this_machine(address: str, port: str, name: str) -> None:
    assert ask(address, "/", host=f"{name}:{port}").status == 200
    assert ask(address, "/", host=name).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost:x"]
)
@pytest.mark.parametrize("path", ["/", "/api/page", "/healthz"])
def test_a_foreign_name_that_leads_here_gets_nothing(address: str, host: str, path: str) -> None:
    answered = ask(address, path, host=host)
    assert (answered.status, answered.json["error"]["code"]) == (421, "host")


def test_other_names_are_served_where_the_operator_says_so(address: str) -> None:
    with running_playground("127.0.0.1:1", PLAYGROUND_HOSTS="pad.example") as (_, named):
        assert ask(named, "/", host="pad.example").status == 200
        assert ask(named, "/", host="localhost").status == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://localhost:1"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "cors"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
    ],
    ids=lambda headers: "-".join(headers.values()),
)
@pytest.mark.parametrize("path", ["/api/generate", "/api/profiles/put", "/api/profiles"])
def test_a_foreign_page_can_ask_for_nothing(
    address: str, path: str, headers: dict[str, str]
) -> None:
    body = None if path == "/api/profiles" else ASK
    answered = ask(address, path, body, **headers)
    assert (answered.status, answered.json["error"]["code"]) == (403, "origin")


def test_the_page_itself_may_ask_and_a_link_may_lead_to_it(address: str) -> None:
    own = {"origin": f"http://{address}", "sec_fetch_site": "same-origin"}
    assert ask(address, "/api/snippets", ASK, **own).status == 200
    visit = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert ask(address, "/", **visit).status == 200


@pytest.mark.parametrize("path", ["/", "/app.js", "/api/page", "/nothing"])
def test_browsers_are_told_to_run_nothing_but_the_page(address: str, path: str) -> None:
    headers = ask(address, path).headers
    policy = dict(
        part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == ("no-store" if path.startswith("/api") else "no-cache")


def test_answers_are_kept_nowhere(address: str) -> None:
    assert ask(address, "/api/generate", {**ASK, "max_tokens": 1}).headers["cache-control"] == (
        "no-store"
    )


def test_the_page_needs_no_network_and_is_small() -> None:
    files = [path for path in STATIC.rglob("*") if path.is_file()]
    served = [path for path in files if path.suffix not in (".md", ".LICENSE")]
    assert sum(path.stat().st_size for path in served) < MAX_PAGE_BYTES
    for path in served:
        if path.suffix == ".woff2":
            continue
        text = path.read_text(encoding="utf-8")
        hosts = set(re.findall(r"https?://([\w.-]+)", text))
        assert hosts <= {"www.w3.org"}, path  # the name of SVG
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    assert "<style" not in html
    assert re.findall(r"<script[^>]*>([^<]*)</script>", html) == ["", ""]


def test_each_file_of_others_has_its_licence() -> None:
    listed = (STATIC / "vendor/README.md").read_text(encoding="utf-8")
    for path in [*(STATIC / "vendor").iterdir(), *(STATIC / "fonts").iterdir()]:
        if path.suffix not in (".LICENSE", ".md"):
            assert path.name in listed
    for licence in re.findall(r"\((\S+\.LICENSE)\)", listed):
        assert (STATIC / "vendor" / licence).is_file()


def test_routes_in_the_log_are_those_of_the_application() -> None:
    text = Path(STATIC.parent / "app.py").read_text(encoding="utf-8")
    assert set(re.findall(r'"(/api/[\w/]+)"', text)) | {"/healthz"} == ROUTES


def test_logs_name_routes_and_no_person_and_the_end_is_in_good_order() -> None:
    with running_playground("127.0.0.1:1") as (process, address):
        ask(address, "/api/profiles/get", {"user_id": "alice-4711"})
        ask(address, "/alice-4711")
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
        assert process.wait() == 0
    events = [json.loads(line) for line in lines]
    assert {"/api/profiles/get", "other"} <= {each.get("route") for each in events}
    assert events[-1]["event"] == "stopped"
    assert "alice" not in str(events)


def test_silent_connections_keep_the_page_from_nobody() -> None:
    limits = {"PLAYGROUND_MAX_CONNECTIONS": "3", "PLAYGROUND_MAX_REQUESTS": "2"}
    with running_playground("127.0.0.1:1", **limits) as (_, crowded), ExitStack() as opened:
        host, port = crowded.split(":")
        for _ in range(9):
            opened.enter_context(socket.create_connection((host, int(port))))
        assert ask(crowded, "/").status == 200
