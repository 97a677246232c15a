"""Orders to the fault points of a running process."""

import asyncio
import contextlib
import json
from pathlib import Path


async def give_order(socket_path: Path, order: dict[str, object]) -> None:
    """Give an order, `{}` to end all faults; a process that is gone or stopped cannot be asked."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_unix_connection(socket_path)
            try:
                writer.write(json.dumps(order).encode() + b"\n")
                assert await reader.readline() in (b"ok\n", b"")
            finally:
                writer.close()
