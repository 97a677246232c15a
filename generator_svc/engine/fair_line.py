"""In which order what waits begins: by priority, and within one tenant by tenant."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Generic, Protocol, TypeVar

BATCH_TURN = 8  # while both wait, every eighth start is one of priority BATCH
_MAX_REMEMBERED = 1024  # tenants that do not wait, before those without a debt are forgotten


class Priority(Enum):
    """Who begins first."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class Waiter(Protocol):
    """What can stand in line."""

    @property
    def tenant(self) -> str: ...

    @property
    def priority(self) -> Priority: ...

    @property
    def num_tokens(self) -> int: ...


W = TypeVar("W", bound=Waiter)


class FairLine(Generic[W]):
    """Requests of priority INTERACTIVE first, though every eighth start is one of BATCH.

    So k requests of BATCH wait for no more than 8k starts. Within a priority, the tenant begins
    that has been given the fewest tokens by its weight (start-time fair queueing); one that was
    away has gained nothing by it. Requests of one tenant begin in order of arrival.

    Source: Goyal, Vin and Cheng, Start-time fair queueing, SIGCOMM 1996.

    Args:
        weight_of: a tenant's share relative to others', > 0.
    """

    def __init__(self, weight_of: Callable[[str], float] = lambda _: 1.0) -> None:
        self._lanes = {priority: _Lane[W](weight_of) for priority in Priority}
        self._members: set[W] = set()
        self._num_since_batch = 0

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, waiter: W) -> bool:
        return waiter in self._members

    def __iter__(self) -> Iterator[W]:
        for lane in self._lanes.values():
            yield from lane

    def push(self, waiter: W) -> None:
        """Put it behind its tenant's others."""
        self._members.add(waiter)
        self._lanes[waiter.priority].push(waiter)

    def pop(self) -> W:
        """Take whoever begins next; there must be one."""
        first, last = self._lanes[Priority.INTERACTIVE], self._lanes[Priority.BATCH]
        is_batch = bool(last) and (not first or self._num_since_batch >= BATCH_TURN - 1)
        self._num_since_batch = 0 if is_batch or not last else self._num_since_batch + 1
        waiter = (last if is_batch else first).pop()
        self._members.remove(waiter)
        return waiter

    def discard(self, waiter: W) -> None:
        """Take one out that does not wait any more."""
        self._members.remove(waiter)
        self._lanes[waiter.priority].discard(waiter)

    def tokens_ahead(self, tenant: str, priority: Priority) -> int:
        """Return what is sure to begin before a new request: its tenant's own of that priority."""
        return self._lanes[priority].tokens_of(tenant)


class _Lane(Generic[W]):
    """What waits of one priority."""

    def __init__(self, weight_of: Callable[[str], float]) -> None:
        self._weight_of = weight_of
        self._queues: dict[str, deque[W]] = {}
        self._num_tokens: Counter[str] = Counter()
        self._given: dict[str, float] = {}  # weighed tokens each tenant was given
        self._clock = 0.0  # what the tenant had been given that began last

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __iter__(self) -> Iterator[W]:
        for queue in self._queues.values():
            yield from queue

    def push(self, waiter: W) -> None:
        tenant = waiter.tenant
        if tenant not in self._queues:
            self._queues[tenant] = deque()
            self._given[tenant] = max(self._given.get(tenant, 0.0), self._clock)
        self._queues[tenant].append(waiter)
        self._num_tokens[tenant] += waiter.num_tokens

    def pop(self) -> W:
        tenant = min(self._queues, key=self._given.__getitem__)
        waiter = self._queues[tenant].popleft()
        self._clock = self._given[tenant]
        self._given[tenant] += waiter.num_tokens / self._weight_of(tenant)
        self._leave(waiter)
        return waiter

    def discard(self, waiter: W) -> None:
        self._queues[waiter.tenant].remove(waiter)
        self._leave(waiter)

    def tokens_of(self, tenant: str) -> int:
        return self._num_tokens[tenant]

    def _leave(self, waiter: W) -> None:
        tenant = waiter.tenant
        self._num_tokens[tenant] -= waiter.num_tokens
        if self._queues[tenant]:
            return
        del self._queues[tenant], self._num_tokens[tenant]
        if len(self._given) > len(self._queues) + _MAX_REMEMBERED:
            kept = self._given.items()
            self._given = {t: n for t, n in kept if t in self._queues or n > self._clock}
