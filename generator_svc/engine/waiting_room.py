"""How much may wait: in requests and tokens, for all and for one tenant or priority."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from generator_svc.engine.fair_line import Priority
from svc_common.errors import OverloadedError

SHARE_OF_FREE = 4  # a tenant among others may hold so many times what is left free


class RefusalReason(Enum):
    """Why a request was refused before any work; a label of metrics."""

    QUEUE_REQUESTS = "queue_requests"
    QUEUE_TOKENS = "queue_tokens"
    QUEUE_SHARE = "queue_share"
    TENANT_CONCURRENCY = "tenant_concurrency"
    TENANT_TOKENS = "tenant_tokens"
    DEADLINE = "deadline"


class RefusedError(OverloadedError):
    """There is no room for a request now; nothing was done for it."""

    def __init__(self, reason: RefusalReason, message: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.reason = reason


@dataclass(frozen=True)
class Claim:
    """What a request wants to occupy: sequences, and tokens of all their prompts and answers."""

    tenant: str
    priority: Priority
    num_sequences: int
    num_tokens: int


@dataclass(frozen=True)
class RoomLimits:
    """What may wait at once, beside what free slots are there for."""

    max_requests: int
    max_tokens: int


class WaitingRoom:
    """Counts what waits, what is being prepared for it included.

    Two further rules keep the room open for others: BATCH may hold half of it, and where more than
    one tenant was ever seen, each may hold four times what is left free. So one tenant's flood
    fills four fifths, two tenants' floods four ninths each, and there is always a place left.

    Args:
        limits: of the whole room.
        book: says when a tenant's request of some tokens should come again.
    """

    def __init__(self, limits: RoomLimits, book: Callable[[str, int], float]) -> None:
        self._limits = limits
        self._book = book
        self._requests: Counter[str | Priority] = Counter()
        self._tokens: Counter[str | Priority] = Counter()
        self._first_tenant: str | None = None
        self._has_several_tenants = False
        self.num_requests = 0
        self.num_tokens = 0

    def check(self, claim: Claim, num_free: int) -> None:
        """Return if there is room for a claim.

        Args:
            claim: not held yet.
            num_free: slots that are free; what they are there for does not wait.

        Raises:
            RefusedError: there is none.
        """
        self._meet(claim.tenant)
        most, num_waiting = self._limits.max_requests, max(0, self.num_requests - num_free)
        if self.num_requests + claim.num_sequences <= num_free:
            return
        if self.num_requests + claim.num_sequences - num_free > most:
            rule = f"at most {most} requests may wait, {num_waiting} do"
            raise self._refused(RefusalReason.QUEUE_REQUESTS, rule, claim)
        if not self.num_requests:  # else a request of many tokens could never be written
            return
        if self.num_tokens + claim.num_tokens > self._limits.max_tokens:
            rule = f"at most {self._limits.max_tokens} tokens may wait, {self.num_tokens} do"
            raise self._refused(RefusalReason.QUEUE_TOKENS, rule, claim)
        self._check_share(claim, most - num_waiting, num_free)

    def hold(self, claim: Claim) -> None:
        """Count a claim."""
        self._count(claim, 1)

    def give(self, claim: Claim) -> None:
        """Count a claim no more."""
        self._count(claim, -1)

    def _count(self, claim: Claim, sign: int) -> None:
        for holder in (claim.tenant, claim.priority):
            self._requests[holder] += sign * claim.num_sequences
            self._tokens[holder] += sign * claim.num_tokens
            if not self._requests[holder]:
                del self._requests[holder], self._tokens[holder]
        self.num_requests += sign * claim.num_sequences
        self.num_tokens += sign * claim.num_tokens

    def _meet(self, tenant: str) -> None:
        if self._first_tenant is None:
            self._first_tenant = tenant
        self._has_several_tenants |= tenant != self._first_tenant

    def _check_share(self, claim: Claim, num_left: int, num_free: int) -> None:
        limits = self._limits
        if claim.priority is Priority.BATCH:
            most, most_tokens = -(-limits.max_requests // 2), -(-limits.max_tokens // 2)
            self._check_holder(claim, claim.priority, most + num_free, most_tokens)
        if self._has_several_tenants:
            most = SHARE_OF_FREE * num_left
            most_tokens = SHARE_OF_FREE * (limits.max_tokens - self.num_tokens)
            self._check_holder(claim, claim.tenant, most + num_free, most_tokens)

    def _check_holder(
        self, claim: Claim, holder: str | Priority, most: int, most_tokens: int
    ) -> None:
        num_requests = self._requests[holder] + claim.num_sequences
        num_tokens = self._tokens[holder] + claim.num_tokens
        if num_requests <= most and num_tokens <= most_tokens:
            return
        whose = "requests of priority BATCH" if isinstance(holder, Priority) else "this tenant"
        rule = (
            f"{whose} may hold {most} places and {most_tokens} tokens of what is left now,"
            f" would hold {num_requests} and {num_tokens}"
        )
        raise self._refused(RefusalReason.QUEUE_SHARE, rule, claim)

    def _refused(self, reason: RefusalReason, rule: str, claim: Claim) -> RefusedError:
        wait_s = self._book(claim.tenant, claim.num_tokens)
        return RefusedError(reason, f"queue: {rule}; come back in {wait_s:.1f} s", wait_s)
