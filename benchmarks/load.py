"""A light asynchronous load client: many answers at once, with the time of every token."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from benchmarks.rounds import Sample
from pad.v1 import generator_pb2
from pad.v1.generator_pb2_grpc import GeneratorServiceStub
from pad_client.requests import CHANNEL_OPTIONS, build_request

PREFERENCE = "Be friendly and chat with me a little."
DEADLINE_S = 600.0


@dataclass(frozen=True)
class Ask:
    """One answer that is wanted."""

    prompt: str
    num_tokens: int
    strategy: str = "base"
    preference: str = PREFERENCE
    top_k: int = 10

    def message(self) -> generator_pb2.GenerateRequest:
        return build_request(
            prompt=self.prompt,
            strategy=self.strategy,
            preferences=[] if self.strategy == "base" else [self.preference],
            beta=1.0,
            top_k=self.top_k,
            max_tokens=self.num_tokens,
            ignore_end_of_turn=True,
        )


@dataclass
class Answer:
    """When an answer was asked for and when each of its tokens came, by `time.perf_counter`."""

    asked_at: float
    token_times: list[float] = field(default_factory=list)

    @property
    def first_token_s(self) -> float:
        return self.token_times[0] - self.asked_at

    @property
    def gaps_s(self) -> list[float]:
        """Times between neighbouring tokens."""
        times = self.token_times
        return [times[i + 1] - times[i] for i in range(len(times) - 1)]


class Watch:
    """Sees when all answers have run together for `num_steps` tokens each."""

    def __init__(self, num_answers: int, num_steps: int) -> None:
        self.answers = [Answer(0.0) for _ in range(num_answers)]
        self.done = asyncio.Event()
        self.window: tuple[float, float] = (0.0, 0.0)
        self._num_steps = num_steps
        self._num_waiting = num_answers  # answers without a first token
        self._targets: list[int] = []
        self._num_short = num_answers  # answers below their target

    def token(self, index: int, now: float) -> None:
        """Note a token of an answer."""
        times = self.answers[index].token_times
        times.append(now)
        if len(times) == 1:
            self._num_waiting -= 1
            if self._num_waiting == 0:
                self._targets = [len(a.token_times) + self._num_steps for a in self.answers]
                self.window = (now, now)
                return
        if self._targets and len(times) == self._targets[index]:
            self._num_short -= 1
            if self._num_short == 0:
                self.window = (self.window[0], now)
                self.done.set()

    def sample(self) -> Sample:
        """Return time per step of all answers together, tokens/s and time to first token."""
        start, end = self.window
        if not start < end:
            raise ValueError("answers: must run together for a while, did not; allow more tokens")
        count = sum(start < t <= end for a in self.answers for t in a.token_times)
        step_s = (end - start) * len(self.answers) / count
        firsts = [answer.first_token_s for answer in self.answers]
        return {
            "step_ms": 1e3 * step_s,
            "tokens_per_s": len(self.answers) / step_s,
            "first_token_ms": 1e3 * statistics.median(firsts),
        }


class LoadClient:
    """Asks one generator, or several in turn, over one channel each."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._channels = [
            grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) for address in addresses
        ]
        self._stubs = [GeneratorServiceStub(channel) for channel in self._channels]

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def steady(self, asks: Sequence[Ask], num_steps: int) -> Watch:
        """Run all answers until they have run together for `num_steps` tokens, then hang up.

        What comes before, prompts and the first answers' head start, is not in the window.
        """
        watch = Watch(len(asks), num_steps)
        readers = [asyncio.create_task(self._read(i, ask, watch)) for i, ask in enumerate(asks)]
        stopped = asyncio.create_task(watch.done.wait())
        try:
            done, _ = await asyncio.wait([*readers, stopped], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # tells of a call that failed
            if not stopped.done():
                raise ValueError("num_tokens: an answer ended before all had run together")
        finally:
            for task in (stopped, *readers):
                task.cancel()
            await asyncio.gather(stopped, *readers, return_exceptions=True)
        await self._settle(asks[0])
        return watch

    async def whole(self, asks: Sequence[Ask]) -> list[Answer]:
        """Run all answers to their end."""
        watch = Watch(len(asks), 1 << 30)
        await asyncio.gather(*(self._read(i, ask, watch) for i, ask in enumerate(asks)))
        return watch.answers

    async def _read(self, index: int, ask: Ask, watch: Watch) -> None:
        answer = watch.answers[index]
        answer.asked_at = time.perf_counter()
        call = self._stubs[index % len(self._stubs)].Generate(ask.message(), timeout=DEADLINE_S)
        try:
            async for response in call:
                if response.HasField("token"):
                    watch.token(index, time.perf_counter())
        finally:
            call.cancel()

    async def _settle(self, ask: Ask) -> None:
        """Wait until the servers have noticed what was hung up, so that the next starts clean."""
        last = Ask(ask.prompt[:64], 2, ask.strategy, ask.preference, ask.top_k)
        for stub in self._stubs:
            async for _ in stub.Generate(last.message(), timeout=DEADLINE_S):
                pass


def mixed_rate(answers: Sequence[Answer]) -> float:
    """Return tokens/s of a whole job, from the first request to the last token."""
    start = min(answer.asked_at for answer in answers)
    end = max(answer.token_times[-1] for answer in answers)
    return sum(len(answer.token_times) for answer in answers) / (end - start)
