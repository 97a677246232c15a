"""Start the generator service: build every object, hand it down, serve until told to stop."""

import asyncio
import importlib.metadata
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from generator_svc.encodings import PreferenceEncodings
from generator_svc.engine.engine import Engine
from generator_svc.engine.scheduler import Scheduler
from generator_svc.engine.scorer import Replicas, RewardQueries, RewardScorer
from generator_svc.engine.sequence import GenerationParams, Sequence
from generator_svc.engine.step_model import StepModel
from generator_svc.generation import GenerationDefaults, Generator
from generator_svc.metrics import GeneratorMetrics
from generator_svc.profile_servicer import ProfileServicer
from generator_svc.profiles import ProfileStore, StoreOptions, connect
from generator_svc.request_parsing import RequestLimits
from generator_svc.reward_client.calls import RewardCalls
from generator_svc.reward_client.pool import PoolLimits, RewardPool
from generator_svc.servicer import GeneratorServicer
from generator_svc.settings import PREFIX, GeneratorSettings
from pad.v1 import generator_pb2, generator_pb2_grpc, profile_pb2_grpc
from svc_common.health import Health
from svc_common.lifetime import until_first
from svc_common.lm.loading import LoadedModel, ModelFolderError, check_device, load_model
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.tokenizer import TextStream, Tokenizer
from svc_common.logs import configure_logging
from svc_common.metrics import new_registry
from svc_common.server import ServerOptions, serve
from svc_common.settings import SettingsError, load_settings

logger = logging.getLogger(__name__)

GENERATOR_SERVICE = "pad.v1.GeneratorService"
PROFILE_SERVICE = "pad.v1.ProfileService"


def main() -> int:
    """Return the exit status: 0 after a drain, 2 where the settings cannot be used."""
    try:
        settings = load_settings(GeneratorSettings, PREFIX, os.environ)
        configure_logging(settings.log_level, sys.stderr)
        torch.set_num_threads(settings.num_torch_threads)
        check_device(f"{PREFIX}DEVICE", settings.device)
        loaded = load_model(
            settings.model_dir,
            dtype=settings.dtype,
            device=settings.device,
            context_length=settings.context_length,
            setting=f"{PREFIX}MODEL_DIR",
        )
        asyncio.run(run(settings, loaded))
    except (SettingsError, ModelFolderError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


@dataclass(frozen=True)
class Rewards:
    """Where rewards come from; `run` keeps it working, until cancelled."""

    scorer: RewardScorer
    queries: RewardQueries
    replicas: Replicas
    run: Callable[[], Coroutine[Any, Any, None]]


class Parts:
    """What every part of the process shares."""

    def __init__(self, settings: GeneratorSettings) -> None:
        self.version = importlib.metadata.version("pad-serving")
        self.registry = new_registry("generator", self.version)
        self.metrics = GeneratorMetrics(self.registry)
        self.thread = ModelThread(settings.num_torch_threads)


async def run(settings: GeneratorSettings, loaded: LoadedModel) -> None:
    """Serve `loaded`, guided by the reward replicas in the settings, until told to stop."""
    parts = Parts(settings)
    pool = RewardPool(
        settings.reward_targets,
        loaded.tokenizer.fingerprint,
        PoolLimits(
            step_timeout_s=settings.reward_step_timeout_s,
            open_timeout_s=settings.reward_open_timeout_s,
            resolve_interval_s=settings.reward_resolve_interval_s,
        ),
        parts.metrics,
    )
    calls = RewardCalls(pool.fleet, loaded.tokenizer.fingerprint)
    network = loaded.network(settings.forward)
    logger.info("base model loaded", extra={"model_id": loaded.model_id, "forward": network.kind})
    scheduler = Scheduler(
        num_slots=settings.num_slots,
        max_waiting=settings.max_waiting,
        prefill_chunk=settings.prefill_chunk,
    )
    model = StepModel(network.new_runner(settings.num_slots), loaded.head())
    engine = Engine(model, parts.thread, scheduler, pool, parts.metrics)
    await serve_engine(settings, loaded, parts, engine, Rewards(pool, calls, pool.fleet, pool.run))


async def serve_engine(
    settings: GeneratorSettings,
    loaded: LoadedModel,
    parts: Parts,
    engine: Engine,
    rewards: Rewards,
) -> None:
    """Serve what `engine` writes with the model `loaded`, until told to stop."""
    health = Health([GENERATOR_SERVICE, PROFILE_SERVICE])
    limits = RequestLimits(settings.max_tokens, settings.max_top_k)
    lookup = parts.metrics.profile_lookup
    redis = connect(settings.redis_url, StoreOptions.timeout_s)
    async with ProfileStore(redis, _store_options(settings), lookup) as store:
        generator = Generator(
            engine,
            loaded.tokenizer,
            store,
            PreferenceEncodings(store, rewards.queries),
            rewards.queries,
            GenerationDefaults(
                tenant=settings.tenant,
                beta=settings.default_beta,
                context_length=loaded.context_length,
                vocabulary_size=loaded.model.config.vocab_size,
            ),
            lookup,
        )
        info = _server_info(settings, loaded, parts.version)
        servicer = GeneratorServicer(generator, loaded.tokenizer, rewards.replicas, limits, info)
        profiles = ProfileServicer(store, lambda: settings.tenant, loaded.tokenizer.check_text)
        options = ServerOptions(
            settings_prefix=PREFIX,
            listen=settings.listen,
            metrics_port=settings.metrics_port,
            drain_s=settings.drain_s,
            max_message_bytes=settings.max_message_bytes,
        )
        add_servicers = [
            partial(generator_pb2_grpc.add_GeneratorServiceServicer_to_server, servicer),
            partial(profile_pb2_grpc.add_ProfileServiceServicer_to_server, profiles),
        ]
        try:
            await until_first(
                serve(options, health, parts.registry, add_servicers),
                rewards.run(),
                engine.run(),
                _serve_when_warm(engine, loaded.tokenizer, health),
            )
        finally:
            parts.thread.close()


def _store_options(settings: GeneratorSettings) -> StoreOptions:
    return StoreOptions(
        local_ttl_s=settings.profile_ttl_s,
        stale_window_s=settings.profile_stale_s,
        encoding_ttl_s=settings.encoding_ttl_s,
    )


def _server_info(
    settings: GeneratorSettings, loaded: LoadedModel, version: str
) -> generator_pb2.GetServerInfoResponse:
    return generator_pb2.GetServerInfoResponse(
        model_id=loaded.model_id,
        model_version=loaded.version,
        tokenizer_fingerprint=loaded.tokenizer.fingerprint,
        vocabulary_size=loaded.model.config.vocab_size,
        context_length=loaded.context_length,
        max_tokens=settings.max_tokens,
        max_top_k=min(settings.max_top_k, loaded.model.config.vocab_size),
        default_beta=settings.default_beta,
        num_slots=settings.num_slots,
        software_version=version,
    )


async def _serve_when_warm(engine: Engine, tokenizer: Tokenizer, health: Health) -> None:
    """Write two tokens, so that the first caller meets no cold model, then take calls."""
    params = GenerationParams(
        beta=0.0,
        top_k=1,
        temperature=0.0,
        top_p=1.0,
        seed=0,
        max_tokens=2,
        ignores_end_of_turn=True,
    )
    sequence = Sequence("warm-up", [0, 1], params, TextStream(tokenizer), frozenset())
    engine.submit(sequence)
    async for _ in sequence.tokens():
        pass
    health.set_serving(True)


if __name__ == "__main__":
    sys.exit(main())
