"""A whole stack in one process: engine and pool here, a reward service behind real gRPC."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import grpc

from generator_svc.engine.engine import Engine
from generator_svc.engine.prompt_reader import PromptReader
from generator_svc.engine.run_ahead import RunAhead
from generator_svc.engine.scheduler import Scheduler
from generator_svc.engine.sequence import ChosenToken, GenerationParams
from generator_svc.engine.sequence import Sequence as Answer
from generator_svc.engine.step_model import StepModel
from generator_svc.reward_client.limits import PoolLimits
from generator_svc.reward_client.pool import RewardPool
from generator_svc.reward_client.replica import Replica as RewardReplica
from pad.v1 import reward_pb2, reward_pb2_grpc
from reward_svc.encoder import PreferenceEncoder
from reward_svc.model import PersRM
from reward_svc.servicer import RewardServicer
from svc_common.health import Health
from svc_common.lm.head import Head
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.prefill_pace import PrefillPace
from svc_common.lm.prefix_cache import PrefixCache
from svc_common.lm.runner import SlotRunner
from svc_common.lm.tokenizer import TextStream
from svc_common.lm.transformers_forward import TransformersForward
from svc_common.preference_prompt import ChatMessage
from svc_common.server import bind, new_server
from svc_common.server_options import ServerOptions
from tests.generator_svc.silent_observer import SilentObserver
from tests.generator_svc.test_engine import CONTEXT_LENGTH, TOKENIZER, QuietObserver
from tests.reward_svc.replica import Replica, running_replica
from tests.tiny_model import tiny_model

OPTIONS = ServerOptions("REWARD_", listen="127.0.0.1:0", metrics_port=0, drain_s=5.0)
LIMITS = PoolLimits(step_timeout_s=20.0, open_timeout_s=20.0, resolve_interval_s=0.2)


@asynccontextmanager
async def serving(replica: Replica) -> AsyncIterator[str]:
    """Serve a reward replica over gRPC; yield its address."""
    encoder = PreferenceEncoder(replica.cache, replica.batcher)
    servicer = RewardServicer(replica.cache, replica.batcher, encoder, replica.forgetting, "1.2.3")
    add = partial(reward_pb2_grpc.add_RewardServiceServicer_to_server, servicer)
    health = Health(["pad.v1.RewardService"])
    health.set_serving(True)
    server: grpc.aio.Server = new_server(OPTIONS, health, replica.registry, [add])
    address = bind(server, OPTIONS)
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


async def until(condition: Callable[[], bool], pause_s: float = 0.005) -> None:
    """Return once something holds that nobody tells of; fail after 20 seconds."""
    async with asyncio.timeout(20):
        while True:
            if condition():
                return
            await asyncio.sleep(pause_s)


class PoolObserver:
    """Counts the sessions that moved."""

    def __init__(self) -> None:
        self.num_failovers = 0

    def failover(self) -> None:
        self.num_failovers += 1

    def circuit_changed(self, state: str) -> None:
        pass

    def reward_model_changed(self) -> None:
        pass

    def replica_batch(self, queue_s: float, forward_s: float, select_s: float) -> None:
        pass


@dataclass
class Stack:
    """A running stack, and what it is made of; `sent` is what went to the reward service."""

    engine: Engine
    runner: SlotRunner
    observer: QuietObserver
    pool: RewardPool
    pool_observer: PoolObserver
    replicas: list[Replica]
    sent: list[reward_pb2.ScoreRequest] = field(default_factory=list)

    def answer(self, text: str, params: GenerationParams, stop: tuple[str, ...] = ()) -> Answer:
        return Answer(
            request_id=text,
            prompt_ids=TOKENIZER.encode_prompt((ChatMessage("user", text),)),
            params=params,
            text=TextStream(TOKENIZER, stop),
            end_of_turn_ids=TOKENIZER.end_of_turn_ids,
        )

    async def write(
        self, text: str, params: GenerationParams, stop: tuple[str, ...] = ()
    ) -> list[ChosenToken]:
        answer = self.answer(text, params, stop)
        self.engine.submit(answer)
        return [token async for token in answer.tokens()]

    def link(self) -> RewardReplica:
        """Return the pool's one replica."""
        (link,) = self.pool.fleet.replicas
        return link

    async def all_free(self) -> None:
        """Return when no replica holds a session or a row any more."""
        for its in self.replicas:
            await until(
                lambda its=its: (  # type: ignore[misc]
                    not its.batcher.load.num_sessions
                    and its.batcher.load.num_free_slots == its.cache.num_slots
                )
            )


@asynccontextmanager
async def running_stack(
    reward_models: Sequence[PersRM], run_ahead: RunAhead, *, num_slots: int = 8
) -> AsyncIterator[Stack]:
    """Run an engine over as many reward replicas as there are models given."""
    async with _serving_all(reward_models) as (replicas, addresses):
        pool_observer = PoolObserver()
        pool = RewardPool(tuple(addresses), TOKENIZER.fingerprint, LIMITS, pool_observer)
        base = tiny_model(seed=1)
        forward = TransformersForward(base.base_model)
        runner = SlotRunner(forward, num_slots=num_slots, context_length=CONTEXT_LENGTH)
        prompts = PromptReader(
            runner, PrefillPace(64, max_s=60.0), PrefixCache(1 << 20), SilentObserver()
        )
        thread, observer = ModelThread(1), QuietObserver()
        scheduler = Scheduler(num_slots=num_slots, max_waiting=64)
        model = StepModel(runner, Head(base), prompts)
        engine = Engine(model, thread, scheduler, pool, observer, run_ahead)
        tasks = [asyncio.create_task(pool.run()), asyncio.create_task(engine.run())]
        try:
            num_links = len(reward_models)
            await until(lambda: sum(its.is_available for its in pool.fleet.replicas) == num_links)
            stack = Stack(engine, runner, observer, pool, pool_observer, replicas)
            _note_what_is_sent(stack)
            yield stack
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            thread.close()


@asynccontextmanager
async def _serving_all(models: Sequence[PersRM]) -> AsyncIterator[tuple[list[Replica], list[str]]]:
    if not models:
        yield [], []
        return
    async with (
        running_replica(models[0], num_slots=64, prefill_chunk=64) as replica,
        serving(replica) as address,
        _serving_all(models[1:]) as (replicas, addresses),
    ):
        yield [replica, *replicas], [address, *addresses]


def _note_what_is_sent(stack: Stack) -> None:
    """Copy each message on its way to the replicas that are connected."""
    for link in stack.pool.fleet.replicas:
        send = link.connection.send

        def noting(message: reward_pb2.ScoreRequest, send: object = send) -> None:
            stack.sent.append(message)
            send(message)  # type: ignore[operator]

        link.connection.send = noting  # type: ignore[method-assign]
