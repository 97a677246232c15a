"""Serve what an engine writes, wherever its rewards come from, until told to stop."""

import importlib.metadata
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from generator_svc.access import credentials, identify, warn_of_strangers
from generator_svc.admission.opening import limit_table, opened_admission
from generator_svc.encoding_ahead import EncodingAhead
from generator_svc.encoding_round import AheadOptions
from generator_svc.encodings import PreferenceEncodings
from generator_svc.engine.engine import Engine
from generator_svc.engine.scorer import Replicas, RewardQueries
from generator_svc.erasures import Erasures
from generator_svc.generation import Generator
from generator_svc.generation_trace import TRACED_METHODS, GenerationTraces, TracedMetrics
from generator_svc.guidelines import read_guidelines
from generator_svc.metrics import GeneratorMetrics
from generator_svc.planning import GenerationDefaults, Planner
from generator_svc.profile_servicer import ProfileServicer
from generator_svc.profiles import ProfileStore, StoreOptions
from generator_svc.request_parsing import RequestLimits
from generator_svc.servicer import GeneratorServicer
from generator_svc.settings import PREFIX, GeneratorSettings
from generator_svc.store_client import check_mode, new_store_client
from generator_svc.store_metrics import StoreMetrics
from generator_svc.warm_up import WarmUp
from pad.v1 import generator_pb2, generator_pb2_grpc, profile_pb2_grpc
from svc_common.fault_points import FaultPoints
from svc_common.health import Health
from svc_common.lifetime import until_first
from svc_common.lm.loading import LoadedModel
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.prefix_cache import PrefixCache
from svc_common.lm.tokenizing import Tokenizing
from svc_common.metrics import new_registry
from svc_common.rpc_spans import RpcSpans
from svc_common.server import serve
from svc_common.server_options import ServerOptions
from svc_common.tracing import open_tracer

GENERATOR_SERVICE = "pad.v1.GeneratorService"
PROFILE_SERVICE = "pad.v1.ProfileService"


@dataclass(frozen=True)
class Rewards:
    """What the service asks of rewards beside the engine; `run` keeps them coming."""

    queries: RewardQueries
    replicas: Replicas
    run: Callable[[], Coroutine[Any, Any, None]]


class Parts:
    """What every part of the process shares; `tracer` and `traces` where traces are wanted."""

    def __init__(self, settings: GeneratorSettings, loaded: LoadedModel) -> None:
        self.version = importlib.metadata.version("pad-serving")
        self.registry = new_registry("generator", self.version)
        self.tracer = open_tracer(settings, PREFIX, "generator", self.version, self.registry)
        self.traces: GenerationTraces | None = None
        if self.tracer is None:
            self.metrics = GeneratorMetrics(self.registry)
        else:
            self.traces = GenerationTraces(loaded.model_id, settings.traces_step_ratio)
            self.metrics = TracedMetrics(self.registry, self.traces)
        self.faults = FaultPoints()
        self.limits = limit_table(settings)
        self.thread = ModelThread(settings.num_torch_threads, loaded.model.device)
        self.tokenizing = Tokenizing()

    def close(self) -> None:
        """End the threads; spans that ended are sent first."""
        if self.tracer is not None:
            self.tracer.close()
        self.thread.close()
        self.tokenizing.close()


async def serve_engine(
    settings: GeneratorSettings,
    loaded: LoadedModel,
    parts: Parts,
    engine: Engine,
    prefixes: PrefixCache,
    rewards: Rewards,
) -> None:
    """Serve what `engine` writes with the model `loaded` until SIGTERM.

    `prefixes` are what the engine keeps of prompts.
    """
    health = Health([GENERATOR_SERVICE, PROFILE_SERVICE])
    measured = StoreMetrics(parts.registry)
    erasures = Erasures(
        parts.thread,
        prefixes,
        rewards.queries,
        measured,
        parts.metrics,
        users_under_way=lambda: {sequence.subject for sequence in engine.scheduler.everyone},
    )
    limits = RequestLimits(settings.max_tokens, settings.max_top_k, loaded.context_length)
    guidelines = read_guidelines(settings.guidelines_file, loaded.tokenizer)
    redis = new_store_client(settings, StoreOptions.timeout_s)
    await check_mode(redis)
    async with (
        ProfileStore(redis, _store_options(settings), measured, erasures) as store,
        opened_admission(settings, parts.limits, engine.scheduler, parts.metrics) as (
            admission,
            limiter,
        ),
    ):
        planner = Planner(
            loaded.tokenizer,
            store,
            PreferenceEncodings(store, rewards.queries),
            GenerationDefaults(
                beta=settings.default_beta,
                context_length=loaded.context_length,
                vocabulary_size=loaded.model.config.vocab_size,
                guidelines=guidelines,
            ),
            measured.profile_lookup,
            parts.tokenizing,
        )
        generator = Generator(engine, loaded.tokenizer, admission, planner, rewards.queries)
        info = _server_info(settings, loaded, parts.version)
        servicer = GeneratorServicer(
            generator, loaded.tokenizer, rewards.replicas, limits, info, parts.traces
        )
        profiles = ProfileServicer(store, loaded.tokenizer.check_text)
        options = ServerOptions(
            settings_prefix=PREFIX,
            listen=settings.listen,
            metrics_port=settings.metrics_port,
            drain_s=settings.drain_s,
            max_message_bytes=settings.max_message_bytes,
            credentials=credentials(settings),
            identify=identify(settings),
            health_listen=settings.health_listen,
            drain_delay_s=settings.drain_delay_s,
            max_stall_s=settings.max_stall_s,
            max_calls=settings.max_calls,
            max_connection_calls=settings.max_connection_calls,
            max_connection_age_s=settings.max_connection_age_s,
            max_connection_idle_s=settings.max_connection_idle_s,
            max_connections=settings.max_connections,
            spans=None if parts.tracer is None else RpcSpans(parts.tracer, TRACED_METHODS),
        )
        warm_up = WarmUp(
            generator,
            store,
            limits,
            health,
            parts.metrics.start_passed,
            tenant=settings.tenant,
            has_rewards=bool(settings.reward_targets),
            wait_s=settings.start_wait_s,
            generator_service=GENERATOR_SERVICE,
            profile_service=PROFILE_SERVICE,
        )
        ahead = EncodingAhead(
            redis,
            store,
            rewards.queries,
            measured,
            AheadOptions(settings.encodings_ahead_per_s, settings.encoding_ttl_s),
        )
        warn_of_strangers(settings)
        add_servicers = [
            partial(generator_pb2_grpc.add_GeneratorServiceServicer_to_server, servicer),
            partial(profile_pb2_grpc.add_ProfileServiceServicer_to_server, profiles),
        ]
        try:
            await until_first(
                serve(options, health, parts.registry, add_servicers),
                rewards.run(),
                engine.run(),
                warm_up.run(),
                parts.faults.listen(settings.fault_points),
                limiter.run(),
                erasures.run(),
                ahead.run(),
            )
        finally:
            parts.close()


def _store_options(settings: GeneratorSettings) -> StoreOptions:
    return StoreOptions(
        local_ttl_s=settings.profile_ttl_s,
        stale_window_s=settings.profile_stale_s,
        max_revisions=settings.profile_history,
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
