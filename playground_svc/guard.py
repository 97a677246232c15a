"""Where every request begins and ends: who may ask, how many at once, and what browsers are told.

The page acts by the operator's token, or by none at all where the generator asks for none: a
foreign web page must not be able to use it through a visitor's browser. So a request must call
the page by a name of its own (a foreign name that leads to this address would make its page
same-origin: DNS rebinding), and must come from the page itself (Origin, Sec-Fetch-Site).
"""

import logging
import time
import uuid
from collections.abc import Collection

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_svc.hang_up import CALLER_GONE, CallerGoneError
from edge_svc.http_server import broken_framing
from playground_svc.errors import PageError

logger = logging.getLogger(__name__)

PROBE = "/healthz"
API = "/api/"
ROUTES = frozenset(
    (
        *(PROBE, "/api/page", "/api/server", "/api/generate", "/api/explain"),
        "/api/snippets",
        *("/api/profiles", "/api/profiles/get", "/api/profiles/put"),
    )
)
_OWN_SITES = ("same-origin", "none")  # of Sec-Fetch-Site; none: typed, or a bookmark
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "font-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",  # no text becomes markup, whatever we do wrong
}
_HEADERS = {
    "content-security-policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """Wraps the application: knows nothing of what is asked."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], max_requests: int) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._max_requests = max_requests
        self._num_in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                # Answers and profiles are kept nowhere; the page itself is asked for anew each
                # time, so that it always fits its server.
                headers["cache-control"] = "no-store" if _is_api(scope) else "no-cache"
            await send(message)

        self._num_in_work += 1
        try:
            refusal = self._refusal(Request(scope))
            if refusal is None:
                await self._app(scope, receive, send_guarded)
            else:
                response = JSONResponse(refusal.body(), refusal.status)
                await response(scope, receive, send_guarded)
        except CallerGoneError:
            status = CALLER_GONE
        finally:
            self._num_in_work -= 1
            is_told = _is_api(scope) or status >= 400
            logger.log(
                logging.INFO if is_told else logging.DEBUG,
                "request ended",
                extra={
                    "request_id": request_id,
                    "route": scope["path"] if scope["path"] in ROUTES else "other",
                    "status": status,
                    "duration_s": round(time.monotonic() - started, 6),
                },
            )

    def _refusal(self, request: Request) -> PageError | None:
        host = request.headers.get("host", "").lower()
        if _name(host) not in self._hosts:
            rule = f"host: must be one of {', '.join(sorted(self._hosts))}"
            hint = "The operator names others with PLAYGROUND_HOSTS."
            return PageError(421, "host", "The page is not served under this name", rule, hint)
        if not _is_own(request, host):
            title = "Another web page may not use the playground"
            return PageError(403, "origin", title, "origin: must be this page")
        if framing := broken_framing(request.scope):
            return PageError(400, "invalid", "The playground cannot read this", framing)
        if self._num_in_work > self._max_requests and request.url.path != PROBE:
            rule = f"requests: at most {self._max_requests} are taken at once"
            return PageError(429, "busy", "The playground is busy", rule, retry_after_s=1.0)
        return None


def _is_api(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.startswith(API)


def _name(host: str) -> str:
    """Return a Host header without its port; the brackets of an IPv6 address stay."""
    name, _, port = host.rpartition(":")
    return name if name and port.isdecimal() else host


def _is_own(request: Request, host: str) -> bool:
    """Return whether the page itself asks, or somebody who opens it."""
    origin = request.headers.get("origin")
    # Not parsed: it may be anything. What the page sends is "scheme://host" and nothing else.
    if origin is not None and origin.partition("://")[2].lower() != host:
        return False
    site = request.headers.get("sec-fetch-site")
    if site is None or site in _OWN_SITES:
        return True
    # A link from elsewhere may lead to the page, and do no more than that.
    is_visit = request.headers.get("sec-fetch-mode") == "navigate" and request.method == "GET"
    return is_visit and not request.url.path.startswith(API)
