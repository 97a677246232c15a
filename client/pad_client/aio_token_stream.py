"""The tokens of one answer, for asyncio; a call that came to nothing is sent again."""

import asyncio
from collections.abc import Callable
from typing import Self, TypeAlias

import grpc
import grpc.aio

from pad.v1 import generator_pb2
from pad_client import responses
from pad_client.errors import InternalError, RequestCancelledError, error_from_rpc
from pad_client.retries import Attempts, RetryBudget
from pad_client.types import Summary, Token

_Response = generator_pb2.GenerateResponse
ResponseCall: TypeAlias = "grpc.aio.UnaryStreamCall[generator_pb2.GenerateRequest, _Response]"


def is_cancelled() -> bool:
    """Tell a cancelled task from one that awaits a cancelled call: gRPC raises the same."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class AsyncTokenStream:
    """The tokens of one answer as they are written, then its summary.

    The RPC is cancelled, and its work on the server freed, by `aclose`, by leaving the
    `async with` block, by cancelling the task that waits for a token, and when the stream is no
    longer referenced.
    """

    def __init__(
        self, start: Callable[[float], ResponseCall], timeout_s: float, budget: RetryBudget
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._start = start
        self._attempts = Attempts(timeout_s, budget)
        self._call = start(timeout_s)
        self._has_begun = False
        self._summary: Summary | None = None
        self._is_closed = False

    @property
    def summary(self) -> Summary:
        """How the answer came about; there once the tokens are exhausted."""
        if self._summary is None:
            raise RuntimeError("the summary comes after the last token: read the stream first")
        return self._summary

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        while True:
            try:
                while isinstance(response := await self._call.read(), _Response):
                    self._has_begun = True
                    event = responses.read_event(response)
                    if isinstance(event, Token):
                        return event
                    self._summary = event
                break
            except grpc.RpcError as error:
                await self._start_again(error)
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                raise RequestCancelledError(
                    "the stream was closed", code=grpc.StatusCode.CANCELLED
                ) from None
        if self._summary is None:
            raise InternalError("the server ended the stream without a summary")
        raise StopAsyncIteration

    async def _start_again(self, error: grpc.RpcError) -> None:
        """Send the call again if nothing has come of it yet, or raise."""
        pause_s = None if self._has_begun or self._is_closed else self._attempts.pause_s(error)
        if pause_s is not None:
            await asyncio.sleep(pause_s)
        if pause_s is None or self._is_closed:
            raise error_from_rpc(error) from error
        self._call = self._start(self._attempts.remaining_s)

    async def aclose(self) -> None:
        """Cancel the RPC unless it is complete."""
        self._is_closed = True
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # gRPC's loop keeps the call alive, and it may be touched on the loop's thread alone,
        # while the collector runs on any.
        call = getattr(self, "_call", None)  # there is none where the first could not begin
        if call is not None and not call.done() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call.cancel)
