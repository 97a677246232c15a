"""The routes: from a body to a plan, to the generator, and back."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from edge_svc.answering import Event, answer
from edge_svc.bodies import read_json
from edge_svc.boundary import REQUEST_ID_HEADER, Boundary
from edge_svc.errors import ApiError, from_pad, internal
from edge_svc.forms import ChatForm, CompletionForm, Form
from edge_svc.generator import Caller, Generator, read_authorization
from edge_svc.hang_up import EventStream, unless_hung_up
from edge_svc.metrics import EdgeMetrics, route_of
from edge_svc.plan import Plan, plan_chat, plan_completion
from edge_svc.schema import ChatBody, CompletionBody, parse_body
from edge_svc.settings import EdgeSettings
from edge_svc.writing import Writer
from pad_client import PadError, ServerInfo
from svc_common.tracing import Tracer


class Edge:
    """Answers requests; `is_draining` is set once no more are wanted."""

    def __init__(self, settings: EdgeSettings, generator: Generator, metrics: EdgeMetrics) -> None:
        self._settings = settings
        self._generator = generator
        self._metrics = metrics
        self.is_draining = False

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        body = parse_body(ChatBody, await self._read(request))
        caller = _caller(request)
        info = await self._served(caller, body.model)
        plan = plan_chat(body, self._settings, info.max_tokens)
        return await self._respond(request, caller, plan, ChatForm(), info)

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        body = parse_body(CompletionBody, await self._read(request))
        caller = _caller(request)
        info = await self._served(caller, body.model)
        plan = plan_completion(body, self._settings)
        return await self._respond(request, caller, plan, CompletionForm(), info)

    async def models(self, request: Request) -> Response:
        """GET /v1/models: the one base model."""
        info = await self._generator.info_for(_caller(request))
        return JSONResponse({"object": "list", "data": [_model(info)]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{model}."""
        info = await self._generator.info_for(_caller(request))
        if request.path_params["model"] != info.model_id:
            raise _no_model(request.path_params["model"], info)
        return JSONResponse(_model(info))

    async def healthz(self, request: Request) -> Response:
        """Return 200 while the process runs."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """Return 200 while requests are wanted and the generator is SERVING."""
        if self.is_draining:
            return PlainTextResponse("draining\n", HTTPStatus.SERVICE_UNAVAILABLE)
        if not await self._generator.is_serving():
            return PlainTextResponse(
                "the generator is not serving\n", HTTPStatus.SERVICE_UNAVAILABLE
            )
        return PlainTextResponse("ok\n")

    async def _read(self, request: Request) -> Any:
        limits = self._settings
        return await read_json(request, limits.max_body_bytes, limits.body_timeout_s)

    async def _served(self, caller: Caller, model: str) -> ServerInfo:
        info = await self._generator.recent_info(caller)
        if model != info.model_id:
            # Asked anew, in the caller's name: what another was told is not for everybody.
            info = await self._generator.info_for(caller)
            if model != info.model_id:
                raise _no_model(model, info)
        return info

    async def _respond(
        self, request: Request, caller: Caller, plan: Plan, form: Form, info: ServerInfo
    ) -> Response:
        writer = Writer(form, plan, info, self._metrics.broken_stream)
        source = answer(self._generator.client_for(caller), plan)
        events = self._timed(source, route_of(request.url.path))
        if not plan.is_streamed:
            async with aclosing(source), aclosing(events):
                whole = await unless_hung_up(request.receive, writer.whole(events))
            return JSONResponse(whole)
        try:
            # The first event decides between an HTTP error and a stream.
            first = await unless_hung_up(request.receive, anext(events))
        except BaseException:
            await source.aclose()
            raise
        chunks = writer.stream(_chain(first, events))
        return EventStream(chunks, source, self._settings.send_timeout_s)

    async def _timed(
        self, events: AsyncGenerator[Event, None], route: str
    ) -> AsyncGenerator[Event, None]:
        started = time.monotonic()
        first = True
        async for event in events:
            if first:
                self._metrics.first_token(route, time.monotonic() - started)
                first = False
            yield event


def new_app(
    settings: EdgeSettings, edge: Edge, metrics: EdgeMetrics, tracer: Tracer | None = None
) -> ASGIApp:
    """Return the application; everything it answers goes through the boundary."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/v1/chat/completions", edge.chat, methods=["POST"])
    app.add_api_route("/v1/completions", edge.complete, methods=["POST"])
    app.add_api_route("/v1/models", edge.models, methods=["GET"])
    app.add_api_route("/v1/models/{model:path}", edge.model, methods=["GET"])
    app.add_api_route("/healthz", edge.healthz, methods=["GET", "HEAD"])
    app.add_api_route("/readyz", edge.readyz, methods=["GET", "HEAD"])
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(PadError, _on_pad_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_fault)
    wrapped: ASGIApp = Boundary(app, metrics, settings.max_requests, tracer)
    if settings.cors_origins:
        wrapped = CORSMiddleware(
            wrapped,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID_HEADER, "retry-after", "retry-after-ms"],
        )
    return wrapped


def _caller(request: Request) -> Caller:
    authorization = read_authorization(request.headers.get("authorization"))
    return Caller(request.state.request_id, authorization, request.state.trace)


def _model(info: ServerInfo) -> dict[str, Any]:
    return {
        "id": info.model_id,
        "object": "model",
        "created": 0,  # when it was made is not known
        "owned_by": "pad-serving",
        "pad": {
            "model_version": info.model_version,
            "context_length": info.context_length,
            "max_tokens": info.max_tokens,
            "max_top_k": info.max_top_k,
            "default_beta": info.default_beta,
        },
    }


def _no_model(model: str, info: ServerInfo) -> ApiError:
    message = f"model: must be {info.model_id!r}, got {model[:80]!r}"
    return ApiError(404, message, code="model_not_found", param="model")


async def _chain(first: Event, rest: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    yield first
    async for event in rest:
        yield event


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, error.headers())


async def _on_pad_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PadError)
    return await _on_api_error(request, from_pad(error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:80]}: {error.detail}"
    code = HTTPStatus(error.status_code).name.lower()
    refusal = ApiError(error.status_code, message, code=code)
    return JSONResponse(
        refusal.body(), error.status_code, {**refusal.headers(), **(error.headers or {})}
    )


async def _on_fault(request: Request, error: Exception) -> Response:
    return await _on_api_error(request, internal())
