"""A reader who stops reading holds nothing for long; one who is only slow loses nothing."""

import asyncio

import pytest

from svc_common.errors import StalledReaderError
from svc_common.reader_watch import ReaderWatch


class Reader:
    """Takes a message each time it is let."""

    def __init__(self):
        self.taken = []
        self.room = asyncio.Semaphore(0)

    async def write(self, message):
        await self.room.acquire()
        self.taken.append(message)


async def write_all(watch, messages):
    with watch.watching():
        for message in messages:
            await watch.write(message)


async def test_a_reader_who_takes_nothing_is_given_up():
    reader = Reader()
    watch = ReaderWatch(reader.write, max_stall_s=0.05)
    with pytest.raises(StalledReaderError, match=r"reader: must take a message within 0.05 s"):
        await asyncio.wait_for(write_all(watch, ["a", "b"]), 20)
    assert reader.taken == []


async def test_a_slow_reader_gets_all():
    reader = Reader()
    watch = ReaderWatch(reader.write, max_stall_s=20)
    writing = asyncio.create_task(write_all(watch, range(50)))
    for _ in range(50):
        reader.room.release()
        await asyncio.sleep(0)
    await asyncio.wait_for(writing, 20)
    assert reader.taken == list(range(50))


async def test_a_writer_who_has_nothing_to_write_is_not_a_stalled_reader():
    reader, may_go_on = Reader(), asyncio.Event()
    watch = ReaderWatch(reader.write, max_stall_s=0.02)
    reader.room.release()
    reader.room.release()

    async def write():
        with watch.watching():
            await watch.write("a")
            await may_go_on.wait()
            await watch.write("b")

    writing = asyncio.create_task(write())
    asyncio.get_running_loop().call_later(0.2, may_go_on.set)
    await asyncio.wait_for(writing, 20)
    assert reader.taken == ["a", "b"]


async def test_a_caller_who_leaves_is_no_stalled_reader():
    watch = ReaderWatch(Reader().write, max_stall_s=20)
    writing = asyncio.create_task(write_all(watch, ["a"]))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
