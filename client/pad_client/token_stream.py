"""The tokens of one answer, for threads; a call that came to nothing is sent again."""

import threading
from collections.abc import Callable, Iterator
from typing import Protocol, Self

import grpc

from pad.v1 import generator_pb2
from pad_client import responses
from pad_client.errors import InternalError, error_from_rpc
from pad_client.retries import Attempts, RetryBudget
from pad_client.types import Summary, Token


class ResponseCall(Protocol):
    """What the stream needs of gRPC's call."""

    def __iter__(self) -> Iterator[generator_pb2.GenerateResponse]: ...
    def cancel(self) -> bool: ...


class TokenStream:
    """The tokens of one answer as they are written, then its summary.

    The RPC is cancelled, and its work on the server freed, by `close`, by leaving the `with`
    block, and when the stream is no longer referenced (gRPC cancels a call that is collected).
    """

    def __init__(
        self, start: Callable[[float], ResponseCall], timeout_s: float, budget: RetryBudget
    ) -> None:
        self._start = start
        self._attempts = Attempts(timeout_s, budget)
        self._call = start(timeout_s)
        self._has_begun = False
        self._closed = threading.Event()
        self._summary: Summary | None = None

    @property
    def summary(self) -> Summary:
        """How the answer came about; there once the tokens are exhausted."""
        if self._summary is None:
            raise RuntimeError("the summary comes after the last token: read the stream first")
        return self._summary

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Token:
        while True:
            try:
                for response in self._call:
                    self._has_begun = True
                    event = responses.read_event(response)
                    if isinstance(event, Token):
                        return event
                    self._summary = event
                break
            except grpc.RpcError as error:
                self._start_again(error)
        if self._summary is None:
            raise InternalError("the server ended the stream without a summary")
        raise StopIteration

    def _start_again(self, error: grpc.RpcError) -> None:
        """Send the call again if nothing has come of it yet, or raise."""
        pause_s = None if self._has_begun else self._attempts.pause_s(error)
        if pause_s is None or self._closed.wait(pause_s):
            raise error_from_rpc(error) from error
        self._call = self._start(self._attempts.remaining_s)
        if self._closed.is_set():  # by another thread, meanwhile
            self._call.cancel()

    def close(self) -> None:
        """Cancel the RPC unless it is complete."""
        self._closed.set()
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
