"""Places in the services where a test may break a message on its way; off unless a setting says so.

A test writes one JSON line to a unix socket, for example
`{"point": "answers", "kind": "drop", "times": 3}`, and reads `ok`. The next three messages that
pass the point are lost; `{}` ends all that is armed. While nothing is armed a point costs one look
at an attribute.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TypeVar

_M = TypeVar("_M")
KINDS = ("delay", "drop", "duplicate", "garble", "error-before", "error-after")


class InjectedError(Exception):
    """What a fault point raises when it is told to."""


@dataclass
class Fault:
    """What happens to messages that pass a point.

    Attributes:
        point: where.
        kind: one of KINDS.
        times: to how many messages; 0: to all.
        lasts_s: for how long; 0: until it has happened often enough.
        seconds: of a delay.
        detail: how a message is garbled.
    """

    point: str
    kind: str
    times: int = 0
    lasts_s: float = 0.0
    seconds: float = 0.0
    detail: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not self.times and not self.lasts_s:
            raise ValueError("times, lasts_s: one must be set")
        self.ends_at = time.monotonic() + self.lasts_s if self.lasts_s else float("inf")


class FaultPoints:
    """The faults that are armed in this process.

    Attributes:
        is_armed: look here first; nothing else is to be called while it is False.
    """

    def __init__(self) -> None:
        self.is_armed = False
        self._faults: list[Fault] = []

    def arm(self, fault: Fault) -> None:
        """Break messages from now on."""
        self._faults.append(fault)
        self.is_armed = True

    def disarm(self) -> None:
        """Break no more messages."""
        self._faults, self.is_armed = [], False

    async def spoil(
        self, point: str, message: _M, garble: Callable[[_M, str], _M | None] | None = None
    ) -> AsyncGenerator[_M, None]:
        """Yield what comes of a message that passes a point: usually itself.

        Args:
            point: where it passes.
            message: is not changed.
            garble: returns a spoilt copy, or None where there is nothing to spoil.

        Raises:
            InjectedError: an error was asked for.
        """
        fault = self._next(point)
        kind = fault.kind if fault is not None else ""
        spoilt: _M | None = message
        if fault is not None and kind == "garble":
            spoilt = None if garble is None else garble(message, fault.detail)
        if fault is not None and spoilt is not None:
            fault.times -= bool(fault.times)
            if not fault.times and not fault.lasts_s:
                fault.ends_at = 0.0
        if kind == "delay" and fault is not None:
            await asyncio.sleep(fault.seconds)
        if kind == "error-before":
            raise InjectedError(point)
        if kind != "drop":
            yield message if spoilt is None else spoilt
        if kind == "duplicate":
            yield message
        if kind == "error-after":
            raise InjectedError(point)

    def _next(self, point: str) -> Fault | None:
        """Return what is armed at a point, the oldest first."""
        now = time.monotonic()
        self._faults = [fault for fault in self._faults if now < fault.ends_at]
        self.is_armed = bool(self._faults)
        return next((fault for fault in self._faults if fault.point == point), None)

    async def listen(self, path: str) -> None:
        """Take orders through a unix socket until cancelled; without a path return at once."""
        if not path:
            return
        server = await asyncio.start_unix_server(self._take_orders, path)
        async with server:
            await server.serve_forever()

    async def _take_orders(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while line := await reader.readline():
                order = json.loads(line)
                if order:
                    self.arm(Fault(**order))
                else:
                    self.disarm()
                writer.write(b"ok\n")
                await writer.drain()
        finally:
            writer.close()
