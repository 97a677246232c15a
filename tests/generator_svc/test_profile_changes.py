"""What the listener for changed profiles says of itself."""

import asyncio
import logging

from generator_svc import profile_changes
from generator_svc.profile_changes import ChangeListener
from generator_svc.redis_client import connect


class Levels(logging.Handler):
    """Keeps the levels of what is logged; `there` is set once there are enough."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.there = asyncio.Event()
        self._count = count

    def emit(self, record: logging.LogRecord) -> None:
        self.levels.append(record.levelno)
        if len(self.levels) >= self._count:
            self.there.set()


async def test_a_first_try_that_fails_is_no_warning_yet() -> None:
    """Nearly every start logged one: the process was too busy with its models."""

    async def has_no_answer(_: object) -> bool:
        return False

    said = Levels(3)
    profile_changes.logger.addHandler(said)
    level = profile_changes.logger.level
    profile_changes.logger.setLevel(logging.INFO)
    try:
        async with connect("redis://127.0.0.1:1/0", 0.5) as nowhere, asyncio.timeout(20):
            listener = ChangeListener(
                nowhere,
                has_no_answer,
                lambda _: None,
                lambda _: None,
                lambda: None,
                reconnect_s=0.001,
            )
            running = asyncio.ensure_future(listener.run())
            await said.there.wait()
            running.cancel()
            await asyncio.wait([running])
    finally:
        profile_changes.logger.removeHandler(said)
        profile_changes.logger.setLevel(level)
    assert said.levels[:3] == [logging.INFO, logging.WARNING, logging.WARNING]
