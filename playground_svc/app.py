"""The routes: the page's files, and what it asks of the generator.

Whatever names a user is a POST with JSON: no user's name stands in an address, where proxies would
log it.
"""

from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from edge_svc.bodies import read_json
from edge_svc.errors import ApiError
from edge_svc.hang_up import EventStream, unless_hung_up
from pad_client import AsyncGeneratorClient, PadError
from pad_client.presets import MAX_STRENGTH, Presets
from playground_svc import profiles
from playground_svc.answering import answer, events, explained
from playground_svc.errors import PageError, from_api, from_pad
from playground_svc.guard import PROBE, Guard
from playground_svc.presets import PROMPTS, axes, first_wishes
from playground_svc.schema import GenerationBody, ProfileBody, UserBody, parse
from playground_svc.settings import PlaygroundSettings
from playground_svc.snippets import snippets

STATIC = Path(__file__).with_name("static")
_INFO_TIMEOUT_S = 3.0

_BodyT = TypeVar("_BodyT", bound=BaseModel)


class Playground:
    """Answers the page; `is_draining` is set once no more requests are wanted."""

    def __init__(
        self, settings: PlaygroundSettings, client: AsyncGeneratorClient, presets: Presets
    ) -> None:
        self._settings = settings
        self._client = client
        self._page = {
            "axes": axes(presets),
            "first_wishes": first_wishes(presets),
            "prompts": PROMPTS,
            "max_strength": MAX_STRENGTH,
        }
        self.address = settings.shown_generator or settings.generator[0]
        self.is_draining = False

    async def healthz(self, request: Request) -> Response:
        """Return 200 while the process runs: without a generator the page says so itself."""
        return PlainTextResponse("ok\n")

    async def page(self, request: Request) -> Response:
        """GET /api/page: what the page offers to begin with."""
        return JSONResponse({**self._page, "server": self.address})

    async def server(self, request: Request) -> Response:
        """GET /api/server: what the generator says of itself."""
        info = await self._client.server_info(timeout_s=_INFO_TIMEOUT_S)
        return JSONResponse(asdict(info))

    async def generate(self, request: Request) -> Response:
        """POST /api/generate: one answer, token by token."""
        options = (await self._read(request, GenerationBody)).options()
        source = answer(self._client, options, self._settings.request_timeout_s)
        try:
            # The first event decides between an error and a stream.
            first = await unless_hung_up(request.receive, anext(source))
        except BaseException:
            await source.aclose()
            raise
        told = events(first, source, self.address)
        return EventStream(told, source, self._settings.send_timeout_s)

    async def explain(self, request: Request) -> Response:
        """POST /api/explain: an answer once more, with what each wish did to it."""
        options = (await self._read(request, GenerationBody)).options()
        timeout_s = self._settings.request_timeout_s
        work = self._client.explain(timeout_s=timeout_s, **options)
        return JSONResponse(explained(await unless_hung_up(request.receive, work)))

    async def snippets(self, request: Request) -> Response:
        """POST /api/snippets: a request in forms to copy."""
        body = await self._read(request, GenerationBody)
        settings = self._settings
        is_secured = settings.tls or bool(settings.ca_file or settings.token_file)
        return JSONResponse(snippets(body.options(), self.address, is_secured=is_secured))

    async def list_profiles(self, request: Request) -> Response:
        """GET /api/profiles: stored profiles to choose from."""
        return await self._respond(request, profiles.some(self._client))

    async def get_profile(self, request: Request) -> Response:
        """POST /api/profiles/get."""
        body = await self._read(request, UserBody)
        return await self._respond(request, profiles.one(self._client, body.user_id))

    async def put_profile(self, request: Request) -> Response:
        """POST /api/profiles/put."""
        body = await self._read(request, ProfileBody)
        # Not given up when the page hangs up: nobody would know whether it was stored.
        return JSONResponse(await profiles.put(self._client, body))

    async def _read(self, request: Request, kind: type[_BodyT]) -> _BodyT:
        limits = self._settings
        return parse(kind, await read_json(request, limits.max_body_bytes, limits.body_timeout_s))

    async def _respond(self, request: Request, work: Any) -> Response:
        return JSONResponse(await unless_hung_up(request.receive, work))


def new_app(settings: PlaygroundSettings, playground: Playground) -> ASGIApp:
    """Return the application; everything it answers goes through the guard."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route(PROBE, playground.healthz, methods=["GET"])
    app.add_api_route("/api/page", playground.page, methods=["GET"])
    app.add_api_route("/api/server", playground.server, methods=["GET"])
    app.add_api_route("/api/generate", playground.generate, methods=["POST"])
    app.add_api_route("/api/explain", playground.explain, methods=["POST"])
    app.add_api_route("/api/snippets", playground.snippets, methods=["POST"])
    app.add_api_route("/api/profiles", playground.list_profiles, methods=["GET"])
    app.add_api_route("/api/profiles/get", playground.get_profile, methods=["POST"])
    app.add_api_route("/api/profiles/put", playground.put_profile, methods=["POST"])
    app.mount("/", StaticFiles(directory=STATIC, html=True))

    async def on_error(request: Request, error: Exception) -> Response:
        told = _page_error(error, playground.address)
        return JSONResponse(told.body(), told.status)

    for kind in (PageError, ApiError, PadError, HTTPException, Exception):
        app.add_exception_handler(kind, on_error)
    return Guard(app, settings.hosts, settings.max_requests)


def _page_error(error: Exception, address: str) -> PageError:
    if isinstance(error, PageError):
        return error
    if isinstance(error, ApiError):
        return from_api(error)
    if isinstance(error, PadError):
        return from_pad(error, address)
    if isinstance(error, HTTPException):
        code = HTTPStatus(error.status_code).name.lower()
        return PageError(error.status_code, code, "There is no such page", error.detail)
    title = "Something went wrong inside the playground"
    return PageError(500, "internal", title, "internal error", "Its log says more.")
