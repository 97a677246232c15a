"""Ends work whose caller is gone: HTTP says so only to those who listen."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

_BODY = {"type": "http.response.body"}
CALLER_GONE = 499  # nobody reads it; it stands in log and metric

_T = TypeVar("_T")


class CallerGoneError(Exception):
    """The caller closed the connection, or reads no more, before the answer was complete."""


async def unless_hung_up(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """Return what `work` gives; it is cancelled at once when the caller hangs up.

    The request's body must have been read.

    Raises:
        CallerGoneError: The caller hung up first.
    """
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_hang_up(receive))
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise CallerGoneError
        return working.result()
    finally:
        working.cancel()
        listening.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A response of server-sent events that stops, and closes its source, with its caller."""

    media_type = "text/event-stream"

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        source: AsyncGenerator[Any, None],
        send_timeout_s: float,
    ) -> None:
        """Take the chunks to send, and what they are made from, which is closed after them.

        A caller that reads nothing for `send_timeout_s` is as good as gone.
        """
        # A proxy in front must neither keep nor collect events.
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._chunks = chunks
        self._source = source
        self._send_timeout_s = send_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as stack:
            # Both: a generator that never began does not close what it reads from.
            await stack.enter_async_context(aclosing(self._source))
            await stack.enter_async_context(aclosing(self._chunks))
            await unless_hung_up(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in self._chunks:
            await self._send_in_time(send, {**_BODY, "body": chunk, "more_body": True})
        await self._send_in_time(send, {**_BODY, "body": b"", "more_body": False})

    async def _send_in_time(self, send: Send, message: Message) -> None:
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await send(message)
        except TimeoutError:
            raise CallerGoneError from None
