"""A tiny base model with a LoRA reward model on it: run as one pair, and as two apart."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import peft
import torch
from prometheus_client import CollectorRegistry

from colocated_svc.__main__ import Pair, build
from colocated_svc.loading import load_both
from colocated_svc.queries import ColocatedQueries
from colocated_svc.settings import load_both_settings
from generator_svc.decoding.strategies import Reference
from generator_svc.engine.engine import Engine
from generator_svc.engine.prompt_reader import PromptReader
from generator_svc.engine.run_ahead import RunAhead
from generator_svc.engine.scheduler import Scheduler
from generator_svc.engine.scorer import EncodedPreference, RewardContext
from generator_svc.engine.sequence import ChosenToken, GenerationParams
from generator_svc.engine.sequence import Sequence as Answer
from generator_svc.engine.step_model import StepModel
from generator_svc.metrics import GeneratorMetrics
from reward_svc.metrics import PrefixMetrics
from svc_common.lm.loading import LoadedModel, load_model
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.prefill_pace import PrefillPace
from svc_common.lm.prefix_cache import PrefixCache
from svc_common.lm.tokenizer import TextStream, Tokenizer
from svc_common.lm.tokenizing import Tokenizing
from svc_common.preference_prompt import ChatMessage, add_preference
from tests.generator_svc.fake_scorer import NaiveScorer
from tests.tiny_model import save_tiny_model, tiny_model

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PARAMS = GenerationParams(
    beta=1.0, top_k=10, temperature=0.0, top_p=1.0, seed=0, max_tokens=12, ignores_end_of_turn=True
)


def save_pair(folder: Path, architecture: str = "llama", **lora: object) -> dict[str, str]:
    """Write a base model and an adapter of it, and return the variables that name them."""
    save_tiny_model(folder / "base", architecture)
    save_adapter(folder / "adapter", architecture, **lora)
    return {
        "GENERATOR_MODEL_DIR": str(folder / "base"),
        "GENERATOR_REDIS_URL": "unix:///nowhere",
        "GENERATOR_CONTEXT_LENGTH": "400",
        "REWARD_MODEL_DIR": str(folder / "adapter"),
        "REWARD_VALUE_HEAD": "stage1",
    }


def save_adapter(folder: Path, architecture: str = "llama", **lora: object) -> None:
    """Write a random adapter of the base model beside `folder`."""
    torch.manual_seed(9)
    options = {"r": 4, "lora_alpha": 4, "target_modules": LINEAR, "init_lora_weights": False}
    config = peft.LoraConfig(**{**options, "task_type": "CAUSAL_LM", **lora})
    peft.get_peft_model(tiny_model(architecture), config).save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    values = json.loads(path.read_text()) | {"base_model_name_or_path": "../base"}
    path.write_text(json.dumps(values))


def load(folder: str) -> LoadedModel:
    return load_model(
        Path(folder), dtype="float32", device="cpu", context_length=400, setting="X_MODEL_DIR"
    )


@dataclass
class Writer:
    """Has an engine write."""

    engine: Engine
    tokenizer: Tokenizer

    def answer(self, text: str, params: GenerationParams, *, prompts_base: bool = False) -> Answer:
        prompt = (ChatMessage("user", text),)
        if prompts_base:
            assert params.reward_context is not None
            wishes = (preference.text for preference in params.reward_context.preferences)
            prompt = tuple(add_preference(prompt, " ".join(wishes)))
        return Answer(
            request_id=text,
            prompt_ids=self.tokenizer.encode_prompt(prompt),
            params=params,
            text=TextStream(self.tokenizer),
            end_of_turn_ids=self.tokenizer.end_of_turn_ids,
        )

    async def write(
        self, text: str, params: GenerationParams, *, prompts_base: bool = False
    ) -> list[ChosenToken]:
        answer = self.answer(text, params, prompts_base=prompts_base)
        self.engine.submit(answer)
        return [token async for token in answer.tokens()]

    async def write_all(
        self, jobs: Sequence[tuple[str, GenerationParams]]
    ) -> list[list[ChosenToken]]:
        return await asyncio.gather(*(self.write(*job) for job in jobs))


@dataclass
class RunningPair(Writer):
    pair: Pair
    tokenizing: Tokenizing

    @property
    def queries(self) -> ColocatedQueries:
        return ColocatedQueries(self.pair.cache, self.pair.scorer, self.tokenizing)

    @property
    def num_used(self) -> int:
        """Rows of the one KV cache that are in use."""
        return self.pair.cache.num_slots - self.pair.cache.runner.num_free


@asynccontextmanager
async def colocated(variables: dict[str, str], **changes: object) -> AsyncIterator[RunningPair]:
    """Run base and reward model as one, with changed variables."""
    changed = {name: str(value) for name, value in changes.items()}
    settings, reward_settings = load_both_settings(variables | changed)
    _, model = load_both(settings, reward_settings)
    thread, registry, tokenizing = ModelThread(1), CollectorRegistry(), Tokenizing()
    pair = build(
        settings,
        reward_settings,
        model,
        PrefixMetrics(registry),
        thread,
        Scheduler(num_slots=settings.num_slots, max_waiting=settings.max_waiting),
        GeneratorMetrics(registry),
        tokenizing,
    )
    loops = [asyncio.create_task(pair.engine.run()), asyncio.create_task(pair.scorer.work.run())]
    try:
        yield RunningPair(pair.engine, model.tokenizer, pair, tokenizing)
    finally:
        await end(loops)
        thread.close()
        tokenizing.close()


@asynccontextmanager
async def apart(variables: dict[str, str]) -> AsyncIterator[Writer]:
    """Run the base model alone; rewards are a full recompute with the adapter merged."""
    base, theta = (load(variables[name]) for name in ("GENERATOR_MODEL_DIR", "REWARD_MODEL_DIR"))
    scorer = NaiveScorer(theta.model, base.model, base.tokenizer)
    thread = ModelThread(1)
    scheduler = Scheduler(num_slots=32, max_waiting=64)
    runner, metrics = (
        base.network("transformers").new_runner(32),
        GeneratorMetrics(CollectorRegistry()),
    )
    prompts = PromptReader(runner, PrefillPace(64, 60.0), PrefixCache(0), metrics)
    step_model = StepModel(runner, base.head(), prompts)
    engine = Engine(step_model, thread, scheduler, scorer, metrics, RunAhead(is_allowed=False))
    loops = [asyncio.create_task(engine.run())]
    try:
        yield Writer(engine, base.tokenizer)
    finally:
        await end(loops)
        thread.close()


async def end(loops: "list[asyncio.Task[None]]") -> None:
    """Cancel tasks, and fail with what one of them failed with."""
    for loop in loops:
        loop.cancel()
    for loop in loops:
        with suppress(asyncio.CancelledError):
            await loop


def guided(
    text: str, *wishes: str, reference: Reference = Reference.BACKBONE, **changes: object
) -> GenerationParams:
    """Return how to write an answer to `text` under wishes of falling weight."""
    preferences = tuple(EncodedPreference(wish, 1.0 / (i + 1)) for i, wish in enumerate(wishes))
    context = RewardContext((ChatMessage("user", text),), preferences, reference)
    return replace(PARAMS, reward_context=context, **changes)  # type: ignore[arg-type]


def ids(tokens: Sequence[ChosenToken]) -> list[int]:
    return [token.token_id for token in tokens]


def rewards_of(token: ChosenToken) -> torch.Tensor:
    """Return the rewards of a token's candidates."""
    return torch.tensor([reward for _, _, reward, _ in token.candidates()])
