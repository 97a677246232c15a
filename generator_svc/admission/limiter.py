"""Keeps tenants to their limits: in this process always, in all of them while Redis answers."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from generator_svc.admission.limits import LimitTable, TenantLimits
from generator_svc.admission.local_limits import LocalLimits
from generator_svc.admission.shared_limits import LEASE_S, SharedLimits, Verdict
from generator_svc.engine.waiting_room import RefusedError
from svc_common.errors import StoreUnavailableError

MAX_ASKING = 32  # questions under way; more are decided here
SILENCE_S = 1.0  # after Redis failed, it is left alone for so long


@dataclass
class Lease:
    """What a tenant was given for one request."""

    tenant: str
    num_answers: int
    num_tokens: int


class TenantLimiter:
    """Asks this process's counts first, which can only be lower than all processes' together.

    Redis never holds up or fails a request: without an answer within 30 ms the local count is the
    decision, which `on_fallback` is told of. `run` tells Redis what ended.

    Args:
        table: the limits.
        local: this process's counts.
        shared: all processes' counts, None where there is no Redis.
        on_fallback: told of each request that only this process decided on.
    """

    def __init__(
        self,
        table: LimitTable,
        local: LocalLimits,
        shared: SharedLimits | None,
        on_fallback: Callable[[], None],
    ) -> None:
        self._table = table
        self._local = local
        self._shared = shared
        self._on_fallback = on_fallback
        self._num_asking = 0
        self._silent_until: dict[str, float] = {}  # by server
        self._unused: dict[str, int] = {}  # what Redis is to be told, by tenant
        self._running: set[str] = set()  # tenants whose leases are to be renewed
        self._news = asyncio.Event()

    async def take(self, tenant: str, num_answers: int, num_tokens: int) -> Lease:
        """Let a request in.

        Raises:
            RefusedError: a limit of its tenant is reached; says which, and when to come back.
        """
        limits = self._table.of(tenant)
        lease = Lease(tenant, num_answers, num_tokens)
        if limits.is_unlimited:
            return lease
        self._local.take(tenant, limits, num_answers, num_tokens)
        try:
            await self._ask(lease, limits)
        except BaseException as error:
            self._local.give(tenant, num_answers, num_tokens)
            # A hang-up: Redis may have counted it all the same.
            if not isinstance(error, RefusedError):
                self._unused.setdefault(tenant, 0)
                self._news.set()
            raise
        self._running.add(tenant)
        return lease

    def give(self, lease: Lease, num_used: int) -> None:
        """Count an answer as ended, with the tokens that it took in the end."""
        if self._table.of(lease.tenant).is_unlimited:
            return
        num_unused = lease.num_tokens - num_used
        self._local.give(lease.tenant, lease.num_answers, num_unused)
        if self._shared is not None:
            self._unused[lease.tenant] = self._unused.get(lease.tenant, 0) + num_unused
            self._news.set()

    async def run(self) -> None:
        """Tell Redis of answers that ended, and that the others are still running."""
        if self._shared is None:
            await asyncio.get_running_loop().create_future()
            return
        while True:
            try:
                async with asyncio.timeout(LEASE_S / 3):
                    await self._news.wait()
            except TimeoutError:
                for tenant in self._running:
                    self._unused.setdefault(tenant, 0)
            self._news.clear()
            if not await self._tell(self._shared):
                self._news.set()
                await asyncio.sleep(SILENCE_S)

    async def _tell(self, shared: SharedLimits) -> bool:
        """Tell what is new, and return whether all of it was heard."""
        silent: set[str] = set()
        for tenant in list(self._unused):
            place = shared.place_of(tenant)
            if place in silent:
                continue
            num_unused = self._unused.pop(tenant)
            num_running = self._local.num_running(tenant)
            try:
                await shared.tell(tenant, self._table.of(tenant), num_running, num_unused)
            except StoreUnavailableError:
                self._unused[tenant] = self._unused.get(tenant, 0) + num_unused
                silent.add(place)
                continue
            if not num_running:
                self._running.discard(tenant)
        return not silent

    async def _ask(self, lease: Lease, limits: TenantLimits) -> None:
        verdict = await self._verdict(lease, limits)
        if verdict is None:
            if self._shared is not None:
                self._on_fallback()
        elif verdict.kind != "ok":
            refusal = (
                self._local.too_many(limits, verdict.amount - lease.num_answers)
                if verdict.kind == "running"
                else self._local.too_fast(limits, verdict.amount / 1000)
            )
            self._local.believe(lease.tenant, refusal)
            raise refusal

    async def _verdict(self, lease: Lease, limits: TenantLimits) -> Verdict | None:
        """Return what all processes' counts say; None if they cannot be had in time."""
        if self._shared is None or self._num_asking >= MAX_ASKING:
            return None
        place = self._shared.place_of(lease.tenant)
        if time.monotonic() < self._silent_until.get(place, 0.0):
            return None
        try:
            with self._asking():
                num_running = self._local.num_running(lease.tenant)
                return await self._shared.take(lease.tenant, limits, num_running, lease.num_tokens)
        except StoreUnavailableError:
            now = time.monotonic()
            others = {its: until for its, until in self._silent_until.items() if until > now}
            self._silent_until = others | {place: now + SILENCE_S}
            return None

    @contextmanager
    def _asking(self) -> Iterator[None]:
        self._num_asking += 1
        try:
            yield
        finally:
            self._num_asking -= 1
