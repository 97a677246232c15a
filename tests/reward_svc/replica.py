"""A reward replica of tiny random models without gRPC, and a generator that speaks to it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from prometheus_client import CollectorRegistry
from torch import Tensor

from reward_svc.batcher import Batcher
from reward_svc.forgetting import Forgetting
from reward_svc.messages import (
    Answer,
    CandidateRows,
    CommitRows,
    Message,
    Opened,
    Opening,
    RewardRows,
    RowFault,
)
from reward_svc.metrics import RewardMetrics
from reward_svc.model import PersRM
from reward_svc.pad_config import Conditioning
from reward_svc.preference_head import save_preference_head
from reward_svc.preference_vectors import HEAD_FILES
from reward_svc.prompts import Reference, RewardContext, WeightedPreference, plan_session
from reward_svc.session_trace import SessionTraces
from reward_svc.sessions import SessionCache
from reward_svc.settings import RewardSettings
from svc_common.array_fields import unpack
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.prefill_pace import PrefillPace
from svc_common.lm.prefix_cache import PrefixCache
from svc_common.preference_prompt import ChatMessage, Prompt
from svc_common.tracing import Tracer
from tests.reward_svc.oracle import REFERENCE_SEED, THETA_SEED, random_preference_head
from tests.tiny_model import VOCABULARY_SIZE, save_tiny_model

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
CHAT: Prompt = (ChatMessage("user", "Tell me of the sea."),)


def save_folders(folder: Path, architecture: str = "llama") -> RewardSettings:
    """Write theta (stage 1) and its backbone, and return settings that name them."""
    theta = save_tiny_model(folder / "theta", architecture, THETA_SEED)
    backbone = save_tiny_model(folder / "backbone", architecture, REFERENCE_SEED)
    return RewardSettings(
        model_dir=theta, backbone_dir=str(backbone), value_head="stage1", context_length=256
    )


def save_conditioned(folder: Path, conditioning: Conditioning) -> RewardSettings:
    """Write the same theta and backbone with a preference head, and settings for conditioning."""
    settings = save_folders(folder)
    (settings.model_dir / "pad_config.json").write_text(
        json.dumps({"stage": 1, "conditioning": conditioning.value})
    )
    if conditioning.has_vector:
        path = settings.model_dir / HEAD_FILES[conditioning]
        save_preference_head(random_preference_head(), path)
    return settings


def context(
    *texts_and_weights: tuple[str, float],
    prompt: Prompt = CHAT,
    reference: Reference = Reference.BACKBONE,
) -> RewardContext:
    preferences = tuple(WeightedPreference(text, weight) for text, weight in texts_and_weights)
    return RewardContext(prompt, preferences, reference)


BRIEF = context(("Be brief.", 1.0))


def commit_rows(*commits: tuple[int, int, int], epoch: int = 0) -> CommitRows:
    """Return rows of (session, step, token id)."""
    return CommitRows.of((number, epoch, step, token) for number, step, token in commits)


def candidate_rows(
    batch_id: int, *asked: tuple[int, int, Sequence[int]], epoch: int = 0
) -> CandidateRows:
    """Return rows of (session, step, candidates)."""
    rows = ((number, epoch, step, ids) for number, step, ids in asked)
    return CandidateRows.of(batch_id, rows, time.perf_counter())


def rewards_of(rows: RewardRows) -> dict[tuple[int, int], Tensor]:
    """Return rewards `[K]` by session and step."""
    keys = zip(unpack(rows.sessions), unpack(rows.steps), strict=True)
    rewards = torch.tensor(np.frombuffer(rows.rewards, "<f4"))
    return dict(zip(keys, rewards.split(unpack(rows.num_candidates)), strict=True))


@dataclass
class Generator:
    """Speaks to a batcher the way a generator does, message by message."""

    batcher: Batcher
    model: PersRM
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stream = self.batcher.intake.open_stream()
        self._batch_id = 0

    async def send(self, **parts: object) -> None:
        await self.batcher.intake.submit(self.stream, Message(**parts))  # type: ignore[arg-type]

    async def next_answer(self) -> Answer:
        answer = await self.stream.next_answer()
        assert answer is not None
        return answer

    def opening(
        self,
        number: int,
        what: RewardContext,
        written: Sequence[int] = (),
        epoch: int = 0,
        *,
        is_explained: bool = False,
    ) -> Opening:
        plan = plan_session(what, self.model.tokenizer, self.model.conditioning)
        return Opening(number, epoch, plan, tuple(written), is_explained)

    async def open(
        self,
        number: int,
        what: RewardContext,
        written: Sequence[int] = (),
        epoch: int = 0,
        *,
        is_explained: bool = False,
    ) -> Opened:
        opening = self.opening(number, what, written, epoch, is_explained=is_explained)
        await self.send(openings=(opening,))
        answer = await self.next_answer()
        assert not answer.faults, answer.faults
        return answer.opened[0]

    async def commit(self, *commits: tuple[int, int, int], epoch: int = 0) -> None:
        """Commit (session, step, token id) each."""
        await self.send(commits=commit_rows(*commits, epoch=epoch))

    async def score(
        self, *asked: tuple[int, int, Sequence[int]], epoch: int = 0
    ) -> list[Tensor | RowFault]:
        """Score (session, step, candidates) each; errors of rows stand in their place."""
        await self.ask(*asked, epoch=epoch)
        answer = await self.next_answer()
        assert answer.batch_id == self._batch_id
        assert answer.scored is not None
        results: dict[tuple[int, int], Tensor | RowFault] = {**rewards_of(answer.scored)}
        results |= {(fault.session, fault.step): fault for fault in answer.faults}
        assert len(results) == len(asked)
        return [results[number, step] for number, step, _ in asked]

    async def ask(self, *asked: tuple[int, int, Sequence[int]], epoch: int = 0) -> None:
        self._batch_id += 1
        await self.send(candidates=candidate_rows(self._batch_id, *asked, epoch=epoch))

    async def close(self, *numbers: int) -> None:
        await self.send(closes=numbers)


@dataclass
class Replica:
    """A running batcher and what it is made of."""

    model: PersRM
    cache: SessionCache
    batcher: Batcher
    registry: CollectorRegistry
    forgetting: Forgetting

    def generator(self) -> Generator:
        return Generator(self.batcher, self.model)

    async def settle(self) -> None:
        """Return when everything that was handed over before has been carried out.

        The first empty batch is answered at the begin of a turn, the second in a later one.
        """
        other = self.generator()
        for _ in range(2):
            await other.ask()
            await other.next_answer()
        self.batcher.intake.end_stream(other.stream)

    def sample(self, name: str, **labels: str) -> float:
        value = self.registry.get_sample_value(name, labels)
        assert value is not None, name
        return value


@asynccontextmanager
async def running_replica(
    model: PersRM,
    *,
    num_slots: int = 16,
    prefill_chunk: int = 32,
    pace: PrefillPace | None = None,
    max_prefix_bytes: int = 1 << 22,
    max_waiting_sessions: int = 16,
    tracer: Tracer | None = None,
) -> AsyncIterator[Replica]:
    registry = CollectorRegistry()
    metrics = RewardMetrics(registry)
    cache = SessionCache(
        model,
        num_slots=num_slots,
        pace=pace or PrefillPace(prefill_chunk, max_s=60.0),
        prefixes=PrefixCache(max_prefix_bytes),
        metrics=metrics,
    )
    thread = ModelThread(1)
    traces = None if tracer is None else SessionTraces(tracer, model.model_id, model.version)
    batcher = Batcher(
        cache, thread, metrics, max_waiting_sessions=max_waiting_sessions, traces=traces
    )
    loop_task = asyncio.create_task(batcher.run())
    try:
        async with asyncio.timeout(60):
            yield Replica(model, cache, batcher, registry, Forgetting(cache, thread, metrics))
    finally:
        loop_task.cancel()
        results = await asyncio.gather(loop_task, return_exceptions=True)
        thread.close()
        assert isinstance(results[0], asyncio.CancelledError), results


def random_candidates(rng: np.random.Generator, most: int = 12) -> list[int]:
    count = int(rng.integers(1, most + 1))
    ids: list[int] = rng.choice(VOCABULARY_SIZE, count, replace=False).tolist()
    return ids
