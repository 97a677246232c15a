"""Start the generator service: build every object, hand it down, serve until told to stop."""

from svc_common.lifetime import exit_on_signals

if __name__ == "__main__":  # before the imports, which take seconds
    exit_on_signals()

import asyncio
import logging
import os
import sys

import torch

from generator_svc.access import check_access, reward_connector
from generator_svc.admission.opening import new_scheduler
from generator_svc.engine.engine import Engine
from generator_svc.engine.prompt_reader import PromptReader
from generator_svc.engine.run_ahead import RunAhead
from generator_svc.engine.scheduler import Scheduler
from generator_svc.engine.step_model import StepModel
from generator_svc.metrics import GeneratorMetrics
from generator_svc.reward_client.calls import RewardCalls
from generator_svc.reward_client.limits import PoolLimits
from generator_svc.reward_client.pool import RewardPool
from generator_svc.serving import Parts, Rewards, serve_engine
from generator_svc.settings import PREFIX, GeneratorSettings
from svc_common.lifetime import exits_on_signals
from svc_common.lm.loading import LoadedModel, ModelFolderError, check_device, load_model
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.prefill_pace import PrefillPace
from svc_common.lm.prefix_cache import PrefixCache
from svc_common.logs import configure_logging, log_everything, log_failed_start
from svc_common.settings import SettingsError, load_settings
from svc_common.tracing import check_tracing

logger = logging.getLogger(__name__)


@exits_on_signals()
def main() -> int:
    """Return the exit status: 0 after a drain, 2 where the settings cannot be used."""
    configure_logging("info", sys.stderr)  # until the settings are known
    try:
        settings = load_settings(GeneratorSettings, PREFIX, os.environ)
        configure_logging(settings.log_level, sys.stderr)
        check_access(settings)
        check_tracing(settings, PREFIX)
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
        log_failed_start(error)
        return 2
    return 0


async def run(settings: GeneratorSettings, loaded: LoadedModel) -> None:
    """Serve `loaded`, guided by the replicas in the settings, until SIGTERM."""
    parts = Parts(settings, loaded)
    pool = RewardPool(
        settings.reward_targets,
        loaded.tokenizer.fingerprint,
        PoolLimits(
            step_timeout_s=settings.reward_step_timeout_s,
            open_timeout_s=settings.reward_open_timeout_s,
            resolve_interval_s=settings.reward_resolve_interval_s,
        ),
        parts.metrics,
        connector=reward_connector(settings),
        base_fingerprint=loaded.fingerprint_with(loaded.tokenizer)
        if settings.shares_reference
        else "",
        faults=parts.faults,
    )
    calls = RewardCalls(pool.fleet, loaded.tokenizer.fingerprint)
    prefixes = PrefixCache(settings.max_prefix_cache_bytes, max_age_s=settings.max_prefix_age_s)
    scheduler = new_scheduler(settings, parts.limits)
    engine = new_engine(settings, loaded, parts.thread, prefixes, pool, scheduler, parts.metrics)
    rewards = Rewards(calls, pool.fleet, pool.run)
    await serve_engine(settings, loaded, parts, engine, prefixes, rewards)


def new_engine(
    settings: GeneratorSettings,
    loaded: LoadedModel,
    thread: ModelThread,
    prefixes: PrefixCache,
    pool: RewardPool,
    scheduler: Scheduler,
    metrics: GeneratorMetrics,
) -> Engine:
    """Return the engine that writes with `loaded`."""
    network = loaded.network(settings.forward)
    logger.info("base model loaded", extra={"model_id": loaded.model_id, "forward": network.kind})
    runner = network.new_runner(settings.num_slots)
    prompts = PromptReader(
        runner,
        PrefillPace(settings.prefill_chunk, settings.max_prefill_s),
        prefixes,
        metrics,
    )
    return Engine(
        StepModel(runner, loaded.head(), prompts),
        thread,
        scheduler,
        pool,
        metrics,
        RunAhead(is_allowed=settings.runs_ahead),
    )


if __name__ == "__main__":
    log_everything()
    sys.exit(main())
