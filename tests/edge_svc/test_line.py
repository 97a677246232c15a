"""The way to the generator: another channel once its keys changed, the old one for what runs."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import grpc.aio

from edge_svc.generator import Line


@dataclass
class Channel:
    """Knows when it is closed."""

    credentials: object
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def close(self) -> None:
        self.closed.set()


def new_line(keys: list[Any], longest_call_s: float) -> Line:
    """Return a line whose keys are the last of a list."""

    def credentials() -> grpc.ChannelCredentials:
        return cast(grpc.ChannelCredentials, keys[-1])

    return Line(lambda used: cast(grpc.aio.Channel, Channel(used)), credentials, longest_call_s)


async def test_a_channel_stays_as_long_as_its_keys() -> None:
    keys = ["first"]
    line = new_line(keys, 60)
    before = cast(Channel, line.channel)
    assert line.channel is cast(Any, before)
    keys.append("second")
    after = cast(Channel, line.channel)
    assert (before.credentials, after.credentials) == ("first", "second")
    assert not before.closed.is_set()  # answers may run on it
    await line.close()
    assert before.closed.is_set()
    assert after.closed.is_set()


async def test_an_old_channel_is_closed_when_no_answer_can_run_any_more() -> None:
    keys = ["first"]
    line = new_line(keys, 0.01)
    before = cast(Channel, line.channel)
    keys.append("second")
    after = cast(Channel, line.channel)
    async with asyncio.timeout(10):
        await before.closed.wait()
    assert not after.closed.is_set()
    await line.close()


async def test_without_keys_there_is_one_channel() -> None:
    line = Line(lambda used: cast(grpc.aio.Channel, Channel(used)), None, 60)
    channel = cast(Channel, line.channel)
    assert channel.credentials is None
    assert line.channel is cast(Any, channel)
    await line.close()
    assert channel.closed.is_set()
