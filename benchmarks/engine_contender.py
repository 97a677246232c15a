"""Plain greedy decoding in the generator's engine, in process: no gRPC, no reward service."""

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path

from prometheus_client import CollectorRegistry

from benchmarks.load import Watch, mixed_rate
from benchmarks.make_models import BASE
from benchmarks.rounds import Sample
from generator_svc.__main__ import new_engine
from generator_svc.admission.limits import LimitTable
from generator_svc.admission.opening import new_scheduler
from generator_svc.engine.sequence import GenerationParams, Sequence
from generator_svc.metrics import GeneratorMetrics
from generator_svc.reward_client.limits import PoolLimits
from generator_svc.reward_client.pool import RewardPool
from generator_svc.settings import GeneratorSettings
from svc_common.lm.loading import load_model
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.prefix_cache import PrefixCache
from svc_common.lm.tokenizer import TextStream

MAX_TOKENS = 100_000


class EngineContender:
    """The engine of the generator service with nothing around it."""

    def __init__(self, pair: Path, num_slots: int, context_length: int) -> None:
        settings = GeneratorSettings(
            model_dir=pair / BASE,
            reward_targets=("127.0.0.1:1",),  # never asked
            redis_url="redis://127.0.0.1:1/0",
            num_slots=num_slots,
            context_length=context_length,
        )
        loaded = load_model(
            settings.model_dir,
            dtype=settings.dtype,
            device=settings.device,
            context_length=context_length,
            setting="pair",
        )
        self._tokenizer = loaded.tokenizer
        self._loop = asyncio.new_event_loop()
        metrics = GeneratorMetrics(CollectorRegistry())
        pool = RewardPool(
            settings.reward_targets, self._tokenizer.fingerprint, PoolLimits(1, 1, 60), metrics
        )
        scheduler = new_scheduler(settings, LimitTable())
        self._engine = new_engine(
            settings, loaded, ModelThread(1), PrefixCache(0), pool, scheduler, metrics
        )
        self._running = self._loop.create_task(self._engine.run())

    def engine_steady(self, prompts: list[list[int]], num_steps: int) -> Sample:
        """Write one answer a prompt until all have run together for `num_steps` tokens."""
        return self._finish(self._steady(prompts, num_steps)).sample()

    def engine_mixed(self, prompts: list[list[int]], num_tokens: list[int]) -> Sample:
        """Write answers of different lengths to their end."""
        watch = self._finish(self._mixed(prompts, num_tokens))
        return {"tokens_per_s": mixed_rate(watch.answers)}

    def close(self) -> None:
        """Stop the engine."""
        self._running.cancel()
        self._loop.run_until_complete(asyncio.wait([self._running]))
        self._loop.close()

    def _finish(self, work: Coroutine[None, None, Watch]) -> Watch:
        task = self._loop.create_task(work)
        wait = asyncio.wait([task, self._running], return_when=asyncio.FIRST_COMPLETED)
        self._loop.run_until_complete(wait)
        if self._running.done():
            self._running.result()  # tells of a step that failed
        return task.result()

    async def _steady(self, prompts: list[list[int]], num_steps: int) -> Watch:
        watch = Watch(len(prompts), num_steps)
        sequences = [self._sequence(prompt, MAX_TOKENS) for prompt in prompts]
        readers = [
            asyncio.create_task(self._read(i, sequence, watch))
            for i, sequence in enumerate(sequences)
        ]
        await watch.done.wait()
        for sequence, reader in zip(sequences, readers, strict=True):
            self._engine.cancel(sequence)
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await self._read(0, self._sequence([0, 1], 2), Watch(1, 1))  # the cancelled are gone
        return watch

    async def _mixed(self, prompts: list[list[int]], num_tokens: list[int]) -> Watch:
        watch = Watch(len(prompts), MAX_TOKENS)
        sequences = [
            self._sequence(prompt, count) for prompt, count in zip(prompts, num_tokens, strict=True)
        ]
        await asyncio.gather(*(self._read(i, s, watch) for i, s in enumerate(sequences)))
        return watch

    def _sequence(self, prompt: list[int], max_tokens: int) -> Sequence:
        params = GenerationParams(
            beta=0.0,
            top_k=10,
            temperature=0.0,
            top_p=1.0,
            seed=0,
            max_tokens=max_tokens,
            ignores_end_of_turn=True,
        )
        return Sequence("bench", prompt, params, TextStream(self._tokenizer), frozenset())

    async def _read(self, index: int, sequence: Sequence, watch: Watch) -> None:
        watch.answers[index].asked_at = time.perf_counter()
        self._engine.submit(sequence)
        async for _ in sequence.tokens():
            watch.token(index, time.perf_counter())
