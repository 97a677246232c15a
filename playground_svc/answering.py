"""An answer as the page reads it: server-sent events, one a token, then the summary."""

import json
from collections.abc import AsyncGenerator
from dataclasses import asdict
from typing import Any

from pad_client import (
    AsyncGeneratorClient,
    Completion,
    Detail,
    GenerateOptions,
    PadError,
    Summary,
    Token,
)
from playground_svc.errors import from_pad


async def answer(
    client: AsyncGeneratorClient, options: GenerateOptions, timeout_s: float
) -> AsyncGenerator[Token | Summary, None]:
    """Yield the tokens, each with its candidates, and the summary; closing this cancels the call.

    Raises:
        PadError: The answer failed.
    """
    detailed: GenerateOptions = {**options, "detail": Detail.CANDIDATES}
    async with client.generate(timeout_s=timeout_s, **detailed) as stream:
        async for token in stream:
            yield token
        yield stream.summary


async def events(
    first: Token | Summary, rest: AsyncGenerator[Token | Summary, None], address: str
) -> AsyncGenerator[bytes, None]:
    """Yield an answer that has begun as events; a failure becomes the last of them."""
    yield _event(first)
    try:
        async for value in rest:
            yield _event(value)
    except PadError as error:
        yield _line("error", from_pad(error, address).body()["error"])


def explained(whole: Completion) -> dict[str, Any]:
    """Return what each wish did to an answer, and which of them changed which token.

    The account goes by the answer's own wishes: their order, texts and weights.
    """
    tokens = [each.explanation and asdict(each.explanation) for each in whole.tokens]
    account = whole.summary.explanation
    return {"text": whole.text, "tokens": tokens, "account": account and asdict(account)}


def _event(value: Token | Summary) -> bytes:
    return _line("token" if isinstance(value, Token) else "summary", asdict(value))


def _line(kind: str, value: dict[str, Any]) -> bytes:
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()
