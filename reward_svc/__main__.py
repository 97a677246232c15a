"""Starts the reward service: builds every object and hands it down."""

from svc_common.lifetime import exit_on_signals

if __name__ == "__main__":  # before the imports, which take seconds
    exit_on_signals()

import asyncio
import os
import sys
from functools import partial
from importlib.metadata import version

import torch

from pad.v1 import reward_pb2, reward_pb2_grpc
from reward_svc.access import check_access, credentials, identify, warn_of_strangers
from reward_svc.batcher import Batcher
from reward_svc.encoder import PreferenceEncoder
from reward_svc.forgetting import Forgetting
from reward_svc.metrics import RewardMetrics
from reward_svc.model import PersRM, load_pers_rm
from reward_svc.servicer import RewardServicer
from reward_svc.session_trace import TRACED_METHODS, SessionTraces
from reward_svc.sessions import SessionCache
from reward_svc.settings import PREFIX, RewardSettings
from reward_svc.warm_up import WarmUpError, warm_up
from svc_common.fault_points import FaultPoints
from svc_common.health import Health
from svc_common.lifetime import exits_on_signals, until_first
from svc_common.lm.loading import ModelFolderError
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.prefill_pace import PrefillPace
from svc_common.lm.prefix_cache import PrefixCache
from svc_common.lm.tokenizing import Tokenizing
from svc_common.logs import configure_logging, log_everything, log_failed_start
from svc_common.metrics import new_registry
from svc_common.rpc_spans import RpcSpans
from svc_common.server import serve
from svc_common.server_options import ServerOptions
from svc_common.settings import SettingsError, load_settings
from svc_common.tracing import check_tracing, open_tracer


@exits_on_signals()
def main() -> int:
    """Run the service until it is stopped; return the process's exit code."""
    configure_logging("info", sys.stderr)  # until the settings are known
    try:
        settings = load_settings(RewardSettings, PREFIX, os.environ)
        configure_logging(settings.log_level, sys.stderr)
        check_access(settings)
        check_tracing(settings, PREFIX)
        model = load_pers_rm(settings)
        asyncio.run(run(settings, model))
    except (SettingsError, ModelFolderError) as error:
        log_failed_start(error)
        return 2
    return 0


async def run(settings: RewardSettings, model: PersRM) -> None:
    """Serve `model` until SIGTERM."""
    software_version = version("pad-serving")
    registry = new_registry("reward", software_version)
    metrics = RewardMetrics(registry)
    tracer = open_tracer(settings, PREFIX, "reward", software_version, registry)
    traces = None if tracer is None else SessionTraces(tracer, model.model_id, model.version)
    thread = ModelThread(settings.num_torch_threads, model.device)
    # The event loop scores a few candidates itself.
    torch.set_num_threads(settings.num_torch_threads)
    cache = SessionCache(
        model,
        num_slots=settings.num_slots,
        pace=PrefillPace(settings.prefill_chunk, settings.max_prefill_s),
        prefixes=PrefixCache(settings.max_prefix_cache_bytes, max_age_s=settings.max_prefix_age_s),
        metrics=metrics,
    )
    batcher = Batcher(
        cache, thread, metrics, max_waiting_sessions=settings.max_waiting_sessions, traces=traces
    )
    encoder = PreferenceEncoder(cache, batcher)
    faults = FaultPoints()
    forgetting = Forgetting(cache, thread, metrics)
    tokenizing = Tokenizing()
    servicer = RewardServicer(
        cache, batcher, encoder, forgetting, software_version, faults, tokenizing
    )
    health = Health([reward_pb2.DESCRIPTOR.services_by_name["RewardService"].full_name])
    options = ServerOptions(
        settings_prefix=PREFIX,
        listen=settings.listen,
        metrics_port=settings.metrics_port,
        drain_s=settings.drain_s,
        max_message_bytes=settings.max_message_bytes,
        drain_delay_s=settings.drain_delay_s,
        credentials=credentials(settings),
        identify=identify(settings),
        health_listen=settings.health_listen,
        max_calls=settings.max_calls,
        max_connection_calls=settings.max_connection_calls,
        max_connection_idle_s=settings.max_connection_idle_s,
        max_connections=settings.max_connections,
        spans=None if tracer is None else RpcSpans(tracer, TRACED_METHODS),
    )
    warn_of_strangers(settings)
    add_servicer = partial(reward_pb2_grpc.add_RewardServiceServicer_to_server, servicer)
    try:
        await until_first(
            serve(options, health, registry, [add_servicer]),
            batcher.run(),
            serve_when_warm(health, batcher, model),
            forgetting.run(),
            drain_with(health, batcher),
            faults.listen(settings.fault_points),
        )
    finally:
        if tracer is not None and traces is not None:
            traces.stop()
            tracer.close()
        thread.close()
        tokenizing.close()


async def serve_when_warm(health: Health, batcher: Batcher, model: PersRM) -> None:
    """Say that work is taken once a session has been scored.

    The server listens before: probes read NOT_SERVING, and a signal ends the start in good order.
    """
    try:
        await warm_up(batcher, model)
    except WarmUpError:
        if not health.draining.is_set():  # else the session was refused for that
            raise
    health.set_serving(True)


async def drain_with(health: Health, batcher: Batcher) -> None:
    """Let streams end when the process is to stop."""
    await health.draining.wait()
    batcher.intake.drain()


if __name__ == "__main__":
    log_everything()
    sys.exit(main())
