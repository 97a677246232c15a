"""The losses that are promised to be survived, one by one, on the demo models; each is measured."""

import asyncio
import signal
import time
from dataclasses import dataclass

import grpc

from tests.faults.history import History, Progress, observe
from tests.faults.proxy import Network
from tests.faults.scenario import WISHES, Ask
from tests.faults.stack import FaultStack, until

NUM_ANSWERS = 32
NUM_TOKENS = 60
PAUSE_S = 2.0  # what a lost replica may cost, beside reading the prefixes again
BUSY_S = 4.0  # what a machine that does other things as well may add to it
ENVIRONMENT: dict[str, str] = {}  # as shipped


@dataclass(frozen=True)
class Pause:
    """What a loss cost: the longest time between two tokens, and what it is at most otherwise."""

    longest_s: float
    usual_s: float
    num_answers: int
    num_moved: int

    def __str__(self) -> str:
        return (
            f"{self.num_answers} of {self.num_answers} answers identical, {self.num_moved} sessions"
            f" moved, longest pause {self.longest_s:.2f} s (without the loss {self.usual_s:.2f} s)"
        )


def ask(number: int, **options: object) -> Ask:
    """Return a greedy guided request."""
    fields = {
        "strategy": "pad",
        "text": f"Find me a restaurant for {number} people.",
        "preferences": ((WISHES[number % 3], 1.0),),
        "user_id": "",
        "beta": 1.0,
        "top_k": 10,
        "temperature": 0.0,
        "seed": number,
        "max_tokens": NUM_TOKENS,
        "falls_back": False,
        "ends_turn": False,
        **options,
    }
    return Ask(**fields)  # type: ignore[arg-type]


async def write(stack: FaultStack, asks: list[Ask], progress: Progress) -> list[History]:
    """Write all answers at once."""
    return await asyncio.gather(*(observe(stack.stub, one, progress) for one in asks))


async def lose_one(stack: FaultStack, number: signal.Signals) -> Pause:
    """Send a signal to one of two replicas while 32 answers are written."""
    asks = [ask(i) for i in range(NUM_ANSWERS)]
    twins = await write(stack, asks, Progress())
    moved = await stack.metric("pad_reward_failover_total")
    progress = Progress()
    writing = asyncio.create_task(write(stack, asks, progress))
    await progress.reach(NUM_ANSWERS * NUM_TOKENS / 3)
    stack.replicas[0].child.signal(number)
    histories = await writing
    moved = await stack.metric("pad_reward_failover_total") - moved
    await stack.heal()
    for twin, history in zip(twins, histories, strict=True):
        assert history.status is twin.status is grpc.StatusCode.OK, history.details
        assert history.token_ids == twin.token_ids
        assert all(token.guided for token in history.tokens)
    longest_s, usual_s = (max(h.longest_pause_s for h in found) for found in (histories, twins))
    assert moved > 0, "the replica that was lost had no session"
    return Pause(longest_s, usual_s, len(histories), int(moved))


async def return_to_guidance(stack: FaultStack) -> str:
    """Take all replicas away from a running answer that may do without, and give them back."""
    progress = Progress()
    one = ask(7, falls_back=True, max_tokens=900)  # seconds, even without rewards
    writing = asyncio.create_task(observe(stack.stub, one, progress))
    await progress.reach(20)
    fallback = 'pad_tokens_total{kind="fallback"}'
    before = await stack.metric(fallback)
    for proxy in stack.proxies:
        proxy.set_network(Network(is_refusing=True))
        await proxy.cut()

    async def has_fallen_back() -> bool:
        return await stack.metric(fallback) > before

    await until(has_fallen_back, "it goes on unguided")
    for proxy in stack.proxies:
        proxy.set_network(Network())
    history = await writing
    await stack.heal()
    assert history.status is grpc.StatusCode.OK, history.details
    guided = [token.guided for token in history.tokens]
    assert False in guided, "no token was written without rewards"
    first_unguided = guided.index(False)
    assert True in guided[first_unguided:], "it never became guided again"
    (summary,) = history.summaries
    assert summary.num_fallback_tokens == guided.count(False)
    return (
        f"guided, {guided.count(False)} tokens unguided and marked, then"
        f" {guided[first_unguided:].count(True)} guided again"
    )


async def take_load(stack: FaultStack) -> float:
    """Return the seconds from a replica's return until it has a session."""
    proxy = stack.proxies[1]
    proxy.set_network(Network(is_refusing=True))
    await proxy.cut()
    await write(stack, [ask(1, max_tokens=8)], Progress())
    proxy.set_network(Network())
    started = time.monotonic()
    ends = asyncio.Event()

    async def keep_asking(number: int) -> None:
        while not ends.is_set():
            await observe(stack.stub, ask(number, max_tokens=16), Progress())

    async def has_session() -> bool:
        info = await stack.replicas[1].info()
        return info is not None and info.load.num_sessions > 0

    asking = [asyncio.create_task(keep_asking(number)) for number in range(4)]
    try:
        await until(has_session, "the replica that came back has a session")
    finally:
        ends.set()
        await asyncio.gather(*asking)
    seconds = time.monotonic() - started
    await stack.heal()
    return seconds
