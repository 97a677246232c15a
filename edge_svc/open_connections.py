"""How many connections an HTTP server has open, and which of them goes for a new one."""

import socket
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class OpenConnections:
    """The open connections, by file number: those that wait for a request, and those in work.

    Whoever connects and asks nothing, not even for the rest of a TLS handshake, could else keep out
    everybody. A new connection takes the place of the one that has waited longest.

    Args:
        most: That may be open.
        on_pushed_out: Told of each that went for another one.
        on_refused: Told of each that found all in work, and was closed.
    """

    def __init__(
        self,
        most: int,
        on_pushed_out: Callable[[], None] = lambda: None,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._most = most
        self._on_pushed_out = on_pushed_out
        self._on_refused = on_refused
        self._waiting: OrderedDict[int, socket.socket] = OrderedDict()  # longest first
        self._in_work: dict[int, socket.socket] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_work)

    def add(self, connection: socket.socket) -> bool:
        """Take a new connection, or say that there is no place for it."""
        if len(self) >= self._most and not self._push_out():
            self._on_refused()
            return False
        self._waiting[connection.fileno()] = connection
        return True

    def begin(self, number: int) -> None:
        """Hear that a request arrived."""
        connection = self._waiting.pop(number, None)
        if connection is not None:
            self._in_work[number] = connection

    def end(self, number: int) -> None:
        """Hear that a request was answered."""
        connection = self._in_work.pop(number, None)
        if connection is not None:
            self._waiting[number] = connection

    def remove(self, number: int) -> None:
        """Hear that a connection was closed."""
        self._waiting.pop(number, None)
        self._in_work.pop(number, None)

    def _push_out(self) -> bool:
        if not self._waiting:
            return False
        _, oldest = self._waiting.popitem(last=False)
        with suppress(OSError):  # its caller was faster
            oldest.shutdown(socket.SHUT_RDWR)  # whoever serves it reads an end, and closes it
        self._on_pushed_out()
        return True


class _Connection(socket.socket):
    """An accepted connection that tells when it is closed."""

    def __init__(self, accepted: socket.socket, on_close: Callable[[int], None]) -> None:
        kind = (accepted.family, accepted.type, accepted.proto)
        super().__init__(*kind, fileno=accepted.detach())
        self._on_close = on_close

    def close(self) -> None:
        number = self.fileno()
        super().close()
        if number >= 0:
            self._on_close(number)


class LimitedListener(socket.socket):
    """A listening socket that accepts as many connections as may be open.

    asyncio accepts by this socket, so that each is counted from its first moment: its protocols
    hear of a connection only after the TLS handshake.
    """

    def __init__(self, listener: socket.socket, connections: OpenConnections) -> None:
        """Take the place of a socket that listens, which is closed."""
        kind = (listener.family, listener.type, listener.proto)
        super().__init__(*kind, fileno=listener.detach())
        self._connections = connections

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection.

        Raises:
            ConnectionAbortedError: There is no place for it; asyncio goes on with the next.
        """
        accepted, address = super().accept()
        connection = _Connection(accepted, self._connections.remove)
        if not self._connections.add(connection):
            connection.close()
            raise ConnectionAbortedError("connections: all are in work")
        return connection, address
