"""Makes the calls of cases at a running stack, many at once, and judges how they end."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc

from tests.fuzz.cases import Case, Ending

LIMIT_S = 60.0  # for a call's final status
NUM_CALLERS = 24
OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
# What gRPC raises at a caller whose call ended meanwhile.
CALL_IS_OVER = (grpc.aio.BaseError, grpc.aio.AioRpcError, asyncio.InvalidStateError)
BUSY = "profile store: was not reached"  # in time, on a machine that has no time
CORE = "Internal error from Core"  # in place of the status that the server sent
# A caller's own doing.
ENDS = {
    Ending.READ_ALL: set(),
    Ending.CANCEL_AT_ONCE: {"CANCELLED"},
    Ending.CANCEL_LATER: {"CANCELLED"},
    Ending.DEADLINE: {"DEADLINE_EXCEEDED", "CANCELLED"},
    Ending.UNREAD: {"CANCELLED"},
}
# UNAVAILABLE: nothing is down. DATA_LOSS: nobody damages what is stored.
NEVER = {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}
OFTEN = {"DEADLINE_EXCEEDED", "CANCELLED", "UNIMPLEMENTED"}


@dataclass
class Report:
    """How the calls ended."""

    statuses: Counter[str] = field(default_factory=Counter)
    num_messages: int = 0
    findings: list[str] = field(default_factory=list)

    def add(self, case: Case, code: str, details: str) -> None:
        self.num_messages += max(1, len(case.messages))
        if details.startswith(BUSY):
            code = "BUSY"
        if details == CORE:  # the stream was over while it was written to: see the server's count
            code = "OVER"
        self.statuses[f"{case.method.path} {code}"] += 1
        if code in NEVER or (code in OFTEN and code not in ENDS[case.ending]):
            self.findings.append(
                f"{code} ({details[:200]}), {case.ending.name}; again by:"
                f" python -m tests.fuzz '{case.key}'"
            )


async def run_cases(
    cases: Iterable[Case], addresses: Mapping[str, str], report: Report | None = None
) -> Report:
    """Make the calls and return how they ended."""
    report = report or Report()
    left = iter(cases)

    async def call_one_after_another() -> None:
        channels = {
            name: grpc.aio.insecure_channel(address, OPTIONS) for name, address in addresses.items()
        }
        try:
            for case in left:
                code, details = await finish(case, channels[case.method.service])
                report.add(case, code, details)
        finally:
            for channel in channels.values():
                await channel.close()

    await asyncio.gather(*(call_one_after_another() for _ in range(NUM_CALLERS)))
    return report


async def finish(case: Case, channel: grpc.aio.Channel) -> tuple[str, str]:
    """Make a call and return its status; one that does not end in time is `UNKNOWN`."""
    call = _start(case, channel)
    try:
        async with asyncio.timeout(LIMIT_S):
            with suppress(*CALL_IS_OVER):
                await _carry_out(case, call)
            if case.ending in (Ending.CANCEL_LATER, Ending.UNREAD):
                call.cancel()
            code, details = await call.code(), await call.details()
    except TimeoutError:
        return "UNKNOWN", f"no status after {LIMIT_S} s"
    except asyncio.CancelledError:
        if not call.cancelled():
            raise
        return "CANCELLED", ""
    finally:
        call.cancel()
    return code.name, details or ""


def _start(case: Case, channel: grpc.aio.Channel) -> Any:
    method = case.method
    kinds = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    make: Any = kinds[method.streams_requests, method.streams_responses]
    multi = make(method.path, _same, _same)
    settings = {
        "timeout": case.timeout_s,
        "metadata": case.metadata,
        "compression": grpc.Compression.Gzip if case.is_compressed else None,
    }
    return multi(**settings) if method.streams_requests else multi(case.messages[0], **settings)


async def _carry_out(case: Case, call: Any) -> None:
    if case.ending is Ending.CANCEL_AT_ONCE:
        call.cancel()
    elif not case.method.streams_responses:
        await call
    elif not case.method.streams_requests:
        await _read(case, call)
    else:
        await asyncio.gather(_write(case, call), _read(case, call))


async def _write(case: Case, call: Any) -> None:
    """Send the messages; a stream that is over takes no more."""
    messages = case.messages
    if case.ending is Ending.CANCEL_LATER:
        messages = messages[: (len(messages) + 1) // 2]
    with suppress(*CALL_IS_OVER):
        for message in messages:
            await call.write(message)
        if case.ending is not Ending.CANCEL_LATER:
            await call.done_writing()


async def _read(case: Case, call: Any) -> None:
    if case.ending is Ending.UNREAD or not (case.messages or case.ending is Ending.READ_ALL):
        return
    if case.ending is Ending.CANCEL_LATER and case.method.streams_requests:
        return
    async for _ in call:
        if case.ending is Ending.CANCEL_LATER:
            return


def _same(data: bytes) -> bytes:
    return data
