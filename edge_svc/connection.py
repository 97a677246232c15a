"""A connection of the HTTP server that is closed where its requests do not arrive."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_svc.open_connections import OpenConnections


class ImpatientConnection(H11Protocol):
    """Bounds the times that uvicorn does not: of a request's head, and of what nobody reads.

    uvicorn waits for ever for the first byte, for the rest of a head, and for what is left of a
    body that was refused, if a byte comes now and then. The body of a request that is in work is
    the application's to bound. It also tells `connections` whether it has a request in work.
    """

    def __init__(
        self, *arguments: Any, arrival_s: float, connections: OpenConnections, **named: Any
    ) -> None:
        """Make a connection on which a request's head must arrive within `arrival_s`."""
        super().__init__(*arguments, **named)
        self._arrival_s = arrival_s
        self._connections = connections
        self._number = -1  # of its socket
        self._is_new = True  # nothing has come yet
        self._due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._number = transport.get_extra_info("socket").fileno()
        self._due = self.loop.call_later(self.timeout_keep_alive, self._give_up)

    def data_received(self, data: bytes) -> None:
        if self._is_new:
            self._is_new = False
            self._cancel()
        super().data_received(data)
        if self._has_request:
            self._connections.begin(self._number)
            self._cancel()
        elif self._due is None:  # a byte more does not make it later
            self._due = self.loop.call_later(self._arrival_s, self._give_up)

    def on_response_complete(self) -> None:
        super().on_response_complete()  # which goes on with a request that has arrived already
        if not self._has_request:
            self._connections.end(self._number)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    @property
    def _has_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _cancel(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _give_up(self) -> None:
        self._due = None
        self.transport.abort()
