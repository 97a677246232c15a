"""What a caller saw of an answer, message by message."""

import asyncio
import time
from dataclasses import dataclass, field

import grpc
import grpc.aio

from pad.v1 import generator_pb2
from pad.v1.generator_pb2_grpc import GeneratorServiceStub
from tests.faults.scenario import Ask

TIMEOUT_S = 60.0


@dataclass
class History:
    """All that came of one call, in order, and how it ended."""

    ask: Ask
    messages: list[generator_pb2.GenerateResponse] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)  # by `time.monotonic`
    status: grpc.StatusCode | None = None
    details: str = ""

    @property
    def tokens(self) -> list[generator_pb2.Token]:
        return [message.token for message in self.messages if message.HasField("token")]

    @property
    def token_ids(self) -> list[int]:
        return [token.token_id for token in self.tokens]

    @property
    def summaries(self) -> list[generator_pb2.Summary]:
        return [message.summary for message in self.messages if message.HasField("summary")]

    @property
    def longest_pause_s(self) -> float:
        """The longest time between two messages."""
        return max(
            (b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)), default=0.0
        )


@dataclass
class Progress:
    """Tokens that came so far, of all calls, for those who wait for some."""

    num_tokens: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self) -> None:
        self.num_tokens += 1
        self.changed.set()

    async def reach(self, num_tokens: float) -> None:
        while self.num_tokens < num_tokens:
            self.changed.clear()
            await self.changed.wait()


async def observe(stub: "GeneratorServiceStub", ask: Ask, progress: Progress) -> History:
    """Make the call and write down what comes, until it ends or its caller hangs up."""
    history = History(ask)
    call = stub.Generate(ask.message(), timeout=TIMEOUT_S)
    try:
        async for message in call:
            history.messages.append(message)
            history.arrivals.append(time.monotonic())
            if message.HasField("token"):
                progress.add()
            if len(history.messages) == ask.cancel_after:
                call.cancel()
        history.status = await call.code()
    except grpc.aio.AioRpcError as error:
        history.status, history.details = error.code(), str(error.details())
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        history.status = grpc.StatusCode.CANCELLED
    finally:
        call.cancel()
    return history
