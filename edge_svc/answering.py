"""Runs the answers of one request beside each other and yields what they write, as it comes."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from edge_svc.plan import Plan, without_profile
from pad_client import (
    AsyncGeneratorClient,
    GenerateOptions,
    NotFoundError,
    Summary,
    Token,
)


@dataclass(frozen=True)
class Event:
    """What one choice wrote: a token, or, as its last, the summary."""

    index: int
    value: Token | Summary
    has_profile: bool = True  # False: the user has none, and the base model answered


async def answer(client: AsyncGeneratorClient, plan: Plan) -> AsyncGenerator[Event, None]:
    """Yield the events of all choices; closing this cancels what still runs.

    Raises:
        PadError: One choice failed; the others are cancelled.
    """
    streams = [_answer_one(client, plan, index) for index in range(len(plan.choices))]
    if len(streams) == 1:
        async with aclosing(streams[0]) as events:
            async for event in events:
                yield event
        return
    # One unfinished read a choice: a caller that reads slowly slows the answers, not our memory.
    reads = {asyncio.ensure_future(anext(stream)): stream for stream in streams}
    try:
        while reads:
            done, _ = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
            for read in done:
                stream = reads.pop(read)
                try:
                    event = read.result()
                except StopAsyncIteration:
                    continue
                yield event
                reads[asyncio.ensure_future(anext(stream))] = stream
    finally:
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


async def _answer_one(
    client: AsyncGeneratorClient, plan: Plan, index: int
) -> AsyncGenerator[Event, None]:
    options = plan.choices[index]
    try:
        async with aclosing(_read(client, options, plan.timeout_s)) as values:
            async for value in values:
                yield Event(index, value)
    except NotFoundError:  # before the first token: a profile is read before all else
        if not plan.takes_base:
            raise
    else:
        return
    plain = without_profile(options)
    async with aclosing(_read(client, plain, plan.timeout_s)) as values:
        async for value in values:
            yield Event(index, value, has_profile=False)


async def _read(
    client: AsyncGeneratorClient, options: GenerateOptions, timeout_s: float
) -> AsyncGenerator[Token | Summary, None]:
    async with client.generate(timeout_s=timeout_s, **options) as stream:
        async for token in stream:
            yield token
        yield stream.summary
