"""A product's backend: answers for its users, streamed to the browser as they are written.

    pip install ./client 'fastapi[standard]'
    pad up                                          # or PAD_SERVER=host:port of a server of yours
    uvicorn --app-dir examples --port 8001 backend:app    # 8000 is the port of `pad up --edge`
    curl -N -H 'X-User: alice' -H 'Content-Type: application/json' localhost:8001/answers \
        -d '{"messages": [{"role": "user", "content": "Find me a hotel in Paris."}]}'

Events of an answer: `token` with its text, then `end`; or `error`, where it breaks off.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from pad_client import (
    AsyncGeneratorClient,
    AsyncTokenStream,
    DeadlineExceededError,
    FallbackPolicy,
    GenerateOptions,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PadError,
    Token,
    UnavailableError,
)

ANSWER_TIMEOUT_S = 60.0
CLIENT_GONE = 499  # nobody reads it; it is for the access log
# The first that fits counts. Other errors are ours to mend, and end as 500.
STATUSES: tuple[tuple[type[PadError], int, str], ...] = (
    (InvalidRequestError, 422, "this cannot be answered"),
    (NotFoundError, 404, "nothing is known about this user"),
    (OverloadedError, 429, "too many requests at once"),
    (UnavailableError, 503, "no answers at the moment"),
    (DeadlineExceededError, 504, "the answer took too long"),
)

logger = logging.getLogger(__name__)


class Turn(BaseModel):
    role: Literal["user", "assistant"]
    content: str = Field(min_length=1, max_length=8000)


class Question(BaseModel):
    messages: list[Turn] = Field(min_length=1, max_length=50)
    max_tokens: int = Field(default=200, ge=1, le=500)


class Wishes(BaseModel):
    wishes: list[str] = Field(min_length=1, max_length=8)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep one client for the life of the process: it holds the connections, and finds new ones."""
    server = os.environ.get("PAD_SERVER", "127.0.0.1:50051")
    token_file, ca_file = os.environ.get("PAD_TOKEN_FILE"), os.environ.get("PAD_CA_FILE")
    async with AsyncGeneratorClient(
        server, timeout_s=ANSWER_TIMEOUT_S, token_file=token_file, ca_file=ca_file
    ) as client:
        app.state.pad = client
        yield


app = FastAPI(lifespan=lifespan)


def pad_client(request: Request) -> AsyncGeneratorClient:
    client: AsyncGeneratorClient = request.app.state.pad
    return client


def current_user(x_user: Annotated[str, Header(min_length=1, max_length=128)]) -> str:
    """Return who is logged in. Replace it: a header that anybody can send proves nothing."""
    return x_user


Pad = Annotated[AsyncGeneratorClient, Depends(pad_client)]
User = Annotated[str, Depends(current_user)]


@app.exception_handler(PadError)
async def show_error(request: Request, error: PadError) -> JSONResponse:
    """Turn a failed call into a status, and tell the caller when to come back."""
    status, body = describe(error)
    headers = {}
    if body["retryable"]:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s or 1)))
    return JSONResponse(body, status, headers)


def describe(error: PadError) -> tuple[int, dict[str, Any]]:
    """Return status and body; the server's own words are for the log, unless they help the caller.

    `request_id` finds the call in the logs of PAD serving.
    """
    kind, status, said = next(
        (row for row in STATUSES if isinstance(error, row[0])), (PadError, 500, "internal error")
    )
    logger.warning("call failed: %s", type(error).__name__, extra={"pad_id": error.request_id})
    detail = error.message if kind is InvalidRequestError else ""
    return status, {
        "error": f"{said}: {detail}" if detail else said,
        "retryable": error.retryable,
        "request_id": error.request_id,
    }


@app.get("/healthz")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.put("/wishes", status_code=204)
async def put_wishes(body: Wishes, user: User, pad: Pad) -> None:
    """Keep what the user says about how to be written to."""
    await pad.put_profile(user, body.wishes)


@app.delete("/wishes", status_code=204)
async def delete_wishes(user: User, pad: Pad) -> None:
    """Forget the user; asking twice is no error."""
    with suppress(NotFoundError):
        await pad.delete_profile(user)


@app.post("/answers")
async def answer(question: Question, request: Request, user: User, pad: Pad) -> Response:
    """Stream an answer.

    The first token is waited for before anything is sent, so that what fails at once has a status
    of its own. A user who never wished for anything gets the base model's answer.
    """
    options: GenerateOptions = {
        "messages": [turn.model_dump() for turn in question.messages],
        "max_tokens": question.max_tokens,
        "user_id": user,
        # An answer in the wrong tone is better than none; the last event says so.
        "fallback": FallbackPolicy.UNGUIDED,
    }
    stream = pad.generate(**options)
    try:
        first = await unless_hung_up(request, stream)
    except NotFoundError:
        options["user_id"] = ""
        stream = pad.generate(**options)
        first = await unless_hung_up(request, stream)
    if await request.is_disconnected():
        return Response(status_code=CLIENT_GONE)
    return StreamingResponse(
        events(request, stream, first),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def unless_hung_up(request: Request, stream: AsyncTokenStream) -> Token | None:
    """Return the first token; stop waiting, and free the server's slot, if the caller leaves."""
    waiting = asyncio.ensure_future(anext(stream, None))
    leaving = asyncio.ensure_future(hang_up(request))
    try:
        await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        await stream.aclose()
        return None
    finally:
        waiting.cancel()
        leaving.cancel()
        await asyncio.gather(waiting, leaving, return_exceptions=True)


async def hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def events(
    request: Request, stream: AsyncTokenStream, token: Token | None
) -> AsyncIterator[str]:
    """Yield the answer as server-sent events; the RPC ends with the block, however it is left."""
    async with stream:
        try:
            while token is not None:
                if await request.is_disconnected():
                    return
                yield event("token", {"text": token.text, "changed": token.changed})
                token = await anext(stream, None)
            summary = stream.summary
            yield event(
                "end",
                {
                    "finish_reason": summary.finish_reason,
                    "num_changed_tokens": summary.num_changed_tokens,
                    "was_unguided": summary.num_fallback_tokens > 0,
                    "request_id": summary.request_id,
                },
            )
        except PadError as error:
            yield event("error", describe(error)[1])


def event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
