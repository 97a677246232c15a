"""The Redis of a fault stack: killed like any process, and back with or without what it held."""

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import redis.asyncio
import redis.exceptions

from pad_client.embedded import find_redis_server
from pad_client.embedded.child import Child
from pad_client.embedded.ports import HOST

Launch = Callable[[str, list[str], Mapping[str, str]], Child]


class Store:
    """A Redis that writes an append-only file in a folder of its own."""

    def __init__(self, launch: Launch, folder: Path, port: int) -> None:
        self._launch = launch
        self._folder = folder
        self._port = port
        self.client = redis.asyncio.Redis(port=port)
        self.start()

    def start(self) -> None:
        """Start it with what its folder holds."""
        self._folder.mkdir(exist_ok=True)
        options = {
            "--port": str(self._port),
            "--bind": HOST,
            "--dir": str(self._folder),
            "--save": "",
            "--appendonly": "yes",
        }
        arguments = [part for option in options.items() for part in option]
        self.child = self._launch("redis", [str(find_redis_server()), *arguments], os.environ)

    async def kill(self) -> None:
        """End it as by `kill -9`."""
        await asyncio.to_thread(self.child.kill)

    async def restart(self, *, is_empty: bool) -> None:
        """Start it after `kill`, as one that writes no file if `is_empty`."""
        if is_empty:
            shutil.rmtree(self._folder)
        self.start()

    async def answers(self) -> bool:
        """Tell whether it answers."""
        self.child.check()
        pong: Awaitable[bool] = self.client.ping()
        try:
            return await pong
        except redis.exceptions.ConnectionError:  # or it is still loading
            return False

    async def close(self) -> None:
        """End it for good."""
        await self.client.aclose()
        await self.kill()
