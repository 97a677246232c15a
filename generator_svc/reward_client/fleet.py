"""The reward replicas in reach: found by name, kept connected, one chosen where one is needed."""

import asyncio
import contextlib
import random
import time

from generator_svc.reward_client.connector import Connector
from generator_svc.reward_client.discovery import resolve
from generator_svc.reward_client.events import ReplicaEvents
from generator_svc.reward_client.replica import Replica
from svc_common.errors import ModelMismatchError, RewardUnavailableError, ServiceError
from svc_common.fault_points import FaultPoints


class Fleet:
    """Looks targets up again and again and holds a connection to each address behind them.

    Args:
        targets: `host:port`, where a name may stand for many, or `unix:path`.
        tokenizer_fingerprint: of the base model; replicas with another are refused.
        events: told what happens on each replica.
        base_fingerprint: of the base model: a reference that has it is the base model and gets no
            row of its own; empty: every reference does.
        resolve_interval_s: between two look-ups.
        patience_s: after this long without any replica, waiting for one is of no use.
        faults: of the process; none where nothing is to be broken.
        connector: opens the channels.
    """

    def __init__(
        self,
        targets: tuple[str, ...],
        tokenizer_fingerprint: str,
        events: ReplicaEvents,
        *,
        base_fingerprint: str = "",
        resolve_interval_s: float,
        patience_s: float,
        connector: Connector | None = None,
        faults: FaultPoints | None = None,
    ) -> None:
        self._targets = targets
        self._fingerprint = tokenizer_fingerprint
        self._events = events
        self._base_fingerprint = base_fingerprint
        self._resolve_interval_s = resolve_interval_s
        self._patience_s = patience_s
        self._faults = faults
        self._connector = connector
        self._replicas: dict[str, Replica] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._random = random.Random()
        self._changed = asyncio.Event()
        self._last_available = time.monotonic()

    @property
    def replicas(self) -> list[Replica]:
        return list(self._replicas.values())

    @property
    def is_available(self) -> bool:
        return self.num_available > 0

    @property
    def available(self) -> list[Replica]:
        """Those on which a session could be opened now."""
        return [replica for replica in self._replicas.values() if replica.is_available]

    @property
    def num_available(self) -> int:
        """How many these are."""
        return len(self.available)

    @property
    def is_long_gone(self) -> bool:
        """Whether no replica has been there for longer than the patience."""
        gone_s = time.monotonic() - self._last_available
        return not self.is_available and gone_s > self._patience_s

    async def run(self) -> None:
        """Work until cancelled. A bug in a replica's task ends this too, loudly."""
        async with asyncio.TaskGroup() as group:
            while True:
                addresses, is_complete = await resolve(self._targets)
                for address in addresses - self._replicas.keys():
                    replica = Replica(
                        address,
                        self._fingerprint,
                        self._events,
                        connector=self._connector,
                        base_fingerprint=self._base_fingerprint,
                        faults=self._faults,
                    )
                    self._replicas[address] = replica
                    self._tasks[address] = group.create_task(replica.run())
                if is_complete:
                    self._drop_vanished(addresses)
                await asyncio.sleep(self._resolve_interval_s)

    def _drop_vanished(self, addresses: set[str]) -> None:
        """Forget replicas that no name stands for any more, once they are lost."""
        for address in self._replicas.keys() - addresses:
            if not self._replicas[address].is_available:
                self._tasks.pop(address).cancel()
                del self._replicas[address]

    def note_ready(self) -> None:
        """Wake those who wait for a replica: one is there."""
        self._last_available = time.monotonic()
        self._changed.set()

    def note_lost(self) -> None:
        """Remember when a replica was last there."""
        self._last_available = time.monotonic()

    async def wait_available(self, timeout_s: float) -> bool:
        """Wait until a session can be opened; say whether it came to that."""
        if self.is_long_gone:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(timeout_s, self._patience_s)):
                while not self.is_available:
                    self._changed.clear()
                    await self._changed.wait()
        return self.is_available

    def choose(self, avoid: set[str], model_version: str = "") -> Replica | None:
        """Return the freer of two random replicas (power of two choices), None if there is none.

        Args:
            avoid: addresses that are not to be chosen.
            model_version: of the replica's model; empty: any.
        """
        able = [r for r in self.replicas if r.is_available and r.address not in avoid]
        if model_version:
            able = [replica for replica in able if replica.model_version == model_version]
        pair = self._random.sample(able, min(2, len(able)))
        return max(pair, key=lambda replica: replica.num_free_slots, default=None)

    def step_limit_s(self, replica: Replica, full_s: float) -> float:
        """Return how long a replica may owe rewards: less where another could give them."""
        has_other = self.num_available > replica.is_available
        return replica.patience.limit_s(full_s) if has_other else full_s

    def unavailable(self) -> ServiceError:
        """Return the error that says why there is no replica."""
        refusals = [replica.refusal for replica in self.replicas if replica.refusal]
        if refusals and len(refusals) == len(self.replicas):
            return ModelMismatchError(refusals[0])
        return RewardUnavailableError(
            f"reward service: none of {len(self.replicas)} replicas answered in time"
        )
