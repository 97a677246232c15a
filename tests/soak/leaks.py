"""Calls that end badly, by the thousand, and what they may not leave behind in the processes."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import grpc

from benchmarks.suites.memory import rss_bytes
from pad.v1 import common_pb2, generator_pb2, generator_pb2_grpc, reward_pb2, reward_pb2_grpc
from pad_client.embedded import EmbeddedStack
from tests.fuzz.campaign import wait_until_idle
from tests.fuzz.probes import fingerprint
from tests.fuzz.tiny_stack import SERVICES
from tests.fuzz.values import pack
from tests.soak.cutter import CutConnections

NUM_CALLERS = 16
SETTLE_S = 60.0
OVER = (grpc.aio.BaseError, grpc.aio.AioRpcError, asyncio.InvalidStateError)
STRATEGIES = (generator_pb2.STRATEGY_BASE, generator_pb2.STRATEGY_PAD)
Call = Callable[[Any, Any, int], Awaitable[None]]


@dataclass(frozen=True)
class Use:
    """What a process holds."""

    num_files: int
    rss_mib: float


def uses(stack: EmbeddedStack) -> dict[str, Use]:
    """Return what each service holds."""
    return {
        name: Use(len(os.listdir(f"/proc/{pid}/fd")), rss_bytes(pid) / (1 << 20))
        for name, pid in stack.pids.items()
        if name in SERVICES
    }


def settled_uses(stack: EmbeddedStack, most_files: dict[str, int]) -> dict[str, Use]:
    """Return what each service holds once no session is left and its files are back to `most`.

    A connection that was cut is closed a moment after its calls have ended.
    """
    wait_until_idle(stack)
    give_up_at = time.monotonic() + SETTLE_S
    while True:
        found = uses(stack)
        is_back = all(found[name].num_files <= most for name, most in most_files.items())
        if is_back or time.monotonic() > give_up_at:
            return found
        wait_until_idle(stack)  # a few round trips


def request(index: int, num_tokens: int) -> generator_pb2.GenerateRequest:
    """Return a request for an answer that is long enough to be left in its middle."""
    return generator_pb2.GenerateRequest(
        prompt=f"Tell me of the sea, part {index % 20}.",
        preferences=[common_pb2.Preference(text="Be brief.")],
        strategy=STRATEGIES[index % 2],
        max_tokens=num_tokens,
        ignore_end_of_turn=True,
    )


async def cancelled(generator: Any, reward: Any, index: int) -> None:
    """Leave an answer before, at, or behind its first tokens, or a half-fed reward stream."""
    if index % 5 == 4:
        await _leave_rewards(reward, index)
        return
    call = generator.Generate(request(index, 60))
    with suppress(*OVER):
        for _ in range(index % 4):
            await call.read()
    call.cancel()
    with suppress(*OVER, asyncio.CancelledError):
        await call.code()


async def expired(generator: Any, reward: Any, index: int) -> None:
    """Let the deadline end an answer: in the queue, while its prompt is read, or later."""
    call = generator.Generate(request(index, 200), timeout=(0.0005, 0.003, 0.01, 0.03)[index % 4])
    with suppress(*OVER, asyncio.CancelledError):
        async for _ in call:
            pass
    await call.code()


async def _leave_rewards(reward: Any, index: int) -> None:
    """Open a session, ask for rewards, and cancel, with or without reading the answers."""
    call = reward.Score()
    context = reward_pb2.RewardContext(
        prompt=f"The sea, part {index % 20}",
        preferences=[
            reward_pb2.EncodedPreference(preference=common_pb2.Preference(text="Be kind."))
        ],
        reference=common_pb2.REFERENCE_MODE_BACKBONE,
    )
    opening = reward_pb2.SessionOpen(
        session=1, context=context, tokenizer_fingerprint=_FINGERPRINTS[0]
    )
    row = {"sessions": pack([1]), "epochs": pack([0]), "steps": pack([0])}
    asked = reward_pb2.CandidateRows(**row, num_candidates=pack([2]), candidate_ids=pack([70, 71]))
    with suppress(*OVER):
        await call.write(reward_pb2.ScoreRequest(opens=[opening], candidates=asked, batch_id=1))
        for _ in range(index % 3):
            await call.read()
    call.cancel()
    with suppress(*OVER, asyncio.CancelledError):
        await call.code()


_FINGERPRINTS = [""]


async def _run(stack: EmbeddedStack, call: Call, total: int) -> None:
    indices = count()

    async def call_one_after_another() -> None:
        async with (
            grpc.aio.insecure_channel(stack.address) as to_generator,
            grpc.aio.insecure_channel(stack.addresses["reward-0"]) as to_reward,
        ):
            generator: Any = generator_pb2_grpc.GeneratorServiceStub(to_generator)
            reward: Any = reward_pb2_grpc.RewardServiceStub(to_reward)
            while (index := next(indices)) < total:
                await call(generator, reward, index)

    await asyncio.gather(*(call_one_after_another() for _ in range(NUM_CALLERS)))


async def _break(stack: EmbeddedStack, total: int) -> None:
    """Cut the connection under answers that are being written, `NUM_CALLERS` at a time."""
    for start in range(0, total, NUM_CALLERS):
        async with CutConnections(stack.address) as cutter:
            channels = [
                grpc.aio.insecure_channel(cutter.address, (("grpc.use_local_subchannel_pool", 1),))
                for _ in range(min(NUM_CALLERS, total - start))
            ]
            stubs: list[Any] = [generator_pb2_grpc.GeneratorServiceStub(one) for one in channels]
            calls = [stub.Generate(request(i, 200)) for i, stub in enumerate(stubs)]
            for i, call in enumerate(calls):
                if i % 4:  # a quarter is cut before anything came
                    with suppress(*OVER):
                        await call.read()
            cutter.cut()
            for channel in channels:
                await channel.close()


def run_calls(stack: EmbeddedStack, kind: str, total: int) -> None:
    """Make `total` calls that end as `kind` says: cancelled, expired or broken."""
    _FINGERPRINTS[0] = fingerprint(stack)
    if kind == "broken":
        asyncio.run(_break(stack, total))
    else:
        asyncio.run(_run(stack, {"cancelled": cancelled, "expired": expired}[kind], total))


@dataclass(frozen=True)
class Growth:
    """What calls of one kind left behind in one service."""

    kind: str
    service: str
    num_calls: int
    before: Use
    after: Use

    @property
    def share(self) -> float:
        """Growth of the memory."""
        return self.after.rss_mib / self.before.rss_mib - 1

    def __str__(self) -> str:
        files = f"{self.before.num_files} -> {self.after.num_files} files"
        memory = f"{self.before.rss_mib:.1f} -> {self.after.rss_mib:.1f} MiB ({self.share:+.2%})"
        return f"{self.num_calls} {self.kind}, {self.service}: {files}, {memory}"


def measure(stack: EmbeddedStack, kind: str, num_warm: int, total: int) -> list[Growth]:
    """Make `num_warm` calls, then `total`, and return what the latter left in each service.

    Memory goes up and down by some per cent with what the allocator keeps.
    """
    run_calls(stack, kind, num_warm)
    before = settled_uses(stack, {})
    run_calls(stack, kind, total)
    after = settled_uses(stack, {name: use.num_files for name, use in before.items()})
    return [Growth(kind, name, total, before[name], after[name]) for name in SERVICES]


def report_line(path: Path | None, line: str) -> None:
    """Print a line, and append it to a file if there is one."""
    print(line, flush=True)  # noqa: T201
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
