"""Builds what stands at the door, as the settings say."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from generator_svc.admission.admission import Admission
from generator_svc.admission.limiter import TenantLimiter
from generator_svc.admission.limits import LimitTable, TenantLimits, read_limits
from generator_svc.admission.local_limits import LocalLimits
from generator_svc.admission.shared_limits import TIMEOUT_S, SharedLimits
from generator_svc.engine.scheduler import Scheduler
from generator_svc.metrics import GeneratorMetrics
from generator_svc.settings import PREFIX, GeneratorSettings
from generator_svc.store_client import new_store_client


def limit_table(settings: GeneratorSettings) -> LimitTable:
    """Return the limits of all tenants.

    Raises:
        SettingsError: the file of tenants' limits cannot be used.
    """
    default = TenantLimits(settings.tenant_max_concurrent, settings.tenant_tokens_per_minute)
    return read_limits(default, settings.tenant_limits_file, f"{PREFIX}TENANT_LIMITS_FILE")


def new_scheduler(settings: GeneratorSettings, limits: LimitTable) -> Scheduler:
    """Return the queue and the slots."""
    return Scheduler(
        num_slots=settings.num_slots,
        max_waiting=settings.max_waiting,
        max_waiting_tokens=settings.max_waiting_tokens,
        weight_of=limits.weight_of,
    )


@asynccontextmanager
async def opened_admission(
    settings: GeneratorSettings,
    limits: LimitTable,
    scheduler: Scheduler,
    metrics: GeneratorMetrics,
) -> AsyncIterator[tuple[Admission, TenantLimiter]]:
    """Yield the door in front of `scheduler`, and the limiter, which is to be run beside it."""
    metrics.watch_queue(scheduler)
    async with new_store_client(settings, TIMEOUT_S) as client:
        limiter = TenantLimiter(
            limits,
            LocalLimits(lambda: scheduler.rate.answer_s),
            SharedLimits(client),
            metrics.limiter_fell_back,
        )
        yield Admission(scheduler, limiter, metrics, settings.context_length), limiter
