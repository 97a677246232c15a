"""Start base model and reward model as one process that reads their common weights once a step."""

from svc_common.lifetime import exit_on_signals

if __name__ == "__main__":  # before the imports, which take seconds
    exit_on_signals()

import asyncio
import logging
import os
import sys
from dataclasses import dataclass

import torch

from colocated_svc.loading import load_both
from colocated_svc.queries import NUM_ROWS, ColocatedQueries, InProcess
from colocated_svc.rows import SharedRows
from colocated_svc.scorer import ColocatedScorer
from colocated_svc.settings import load_both_settings
from generator_svc.access import check_access
from generator_svc.admission.opening import new_scheduler
from generator_svc.engine.engine import Engine
from generator_svc.engine.prompt_reader import PromptReader
from generator_svc.engine.run_ahead import RunAhead
from generator_svc.engine.scheduler import Scheduler
from generator_svc.engine.step_model import StepModel
from generator_svc.metrics import GeneratorMetrics
from generator_svc.serving import Parts, Rewards, serve_engine
from generator_svc.settings import PREFIX, GeneratorSettings
from reward_svc.metrics import PrefixMetrics
from reward_svc.model import PersRM
from reward_svc.prompts import REFERENCE
from reward_svc.sessions import SessionCache
from reward_svc.settings import RewardSettings
from svc_common.lifetime import exits_on_signals
from svc_common.lm.loading import LoadedModel, ModelFolderError, check_device
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.prefill_pace import PrefillPace
from svc_common.lm.prefix_cache import PrefixCache
from svc_common.lm.tokenizing import Tokenizing
from svc_common.logs import configure_logging, log_everything, log_failed_start
from svc_common.settings import SettingsError
from svc_common.tracing import check_tracing

logger = logging.getLogger(__name__)


@exits_on_signals()
def main() -> int:
    """Return the exit status: 0 after a drain, 2 where the settings cannot be used."""
    configure_logging("info", sys.stderr)  # until the settings are known
    try:
        settings, reward_settings = load_both_settings(os.environ)
        configure_logging(settings.log_level, sys.stderr)
        check_access(settings)
        check_tracing(settings, PREFIX)
        torch.set_num_threads(settings.num_torch_threads)
        check_device("GENERATOR_DEVICE", settings.device)
        base, model = load_both(settings, reward_settings)
        asyncio.run(run(settings, reward_settings, base, model))
    except (SettingsError, ModelFolderError) as error:
        log_failed_start(error)
        return 2
    return 0


async def run(
    settings: GeneratorSettings,
    reward_settings: RewardSettings,
    base: LoadedModel,
    model: PersRM,
) -> None:
    """Serve both models until told to stop."""
    parts = Parts(settings, base)
    prefixes = PrefixMetrics(parts.registry)
    scheduler = new_scheduler(settings, parts.limits)
    pair = build(
        settings,
        reward_settings,
        model,
        prefixes,
        parts.thread,
        scheduler,
        parts.metrics,
        parts.tokenizing,
    )
    queries = ColocatedQueries(pair.cache, pair.scorer, parts.tokenizing)
    rewards = Rewards(queries, InProcess(pair.scorer), pair.scorer.work.run)
    await serve_engine(settings, base, parts, pair.engine, pair.cache.prefixes, rewards)


@dataclass(frozen=True)
class Pair:
    """An engine and the reward model that guides it, over one KV cache."""

    engine: Engine
    scorer: ColocatedScorer
    cache: SessionCache


def build(
    settings: GeneratorSettings,
    reward_settings: RewardSettings,
    model: PersRM,
    prefixes: PrefixMetrics,
    thread: ModelThread,
    scheduler: Scheduler,
    metrics: GeneratorMetrics,
    tokenizing: Tokenizing,
) -> Pair:
    """Return an engine whose base model is the reward model's backbone."""
    cache = SessionCache(
        model,
        num_slots=settings.num_slots + reward_settings.num_slots + NUM_ROWS,
        pace=PrefillPace(settings.prefill_chunk, settings.max_prefill_s),
        prefixes=PrefixCache(settings.max_prefix_cache_bytes, max_age_s=settings.max_prefix_age_s),
        metrics=prefixes,
    )
    shared = SharedRows(cache.runner)
    scorer = ColocatedScorer(
        cache,
        shared,
        thread,
        num_rows=reward_settings.num_slots,
        max_waiting=reward_settings.max_waiting_sessions,
        tokenizing=tokenizing,
    )
    # A pace of its own, as the two take turns within a step; prefixes are known to both.
    prompts = PromptReader(
        cache.runner,
        PrefillPace(settings.prefill_chunk, settings.max_prefill_s),
        cache.prefixes,
        metrics,
        group=REFERENCE,
    )
    step_model = StepModel(shared, model.heads[REFERENCE], prompts)
    # Rewards are there with the candidates: there is no wait to hide.
    engine = Engine(step_model, thread, scheduler, scorer, metrics, RunAhead(is_allowed=False))
    return Pair(engine, scorer, cache)


if __name__ == "__main__":
    log_everything()
    sys.exit(main())
