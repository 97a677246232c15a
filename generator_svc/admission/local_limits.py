"""What tenants use of their limits in this process."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from generator_svc.admission.limits import TenantLimits
from generator_svc.engine.waiting_room import RefusalReason, RefusedError

MINUTE_S = 60.0
# How long another process's use, once heard of, is believed without asking again: a flood of
# refused calls must not become a flood of questions.
BELIEVED_S = 0.2


@dataclass
class _Use:
    num_running: int = 0
    num_tokens: float = 0.0  # used and not yet forgiven by time
    at: float = 0.0  # when that was so
    refusal: RefusedError | None = None  # the shared limiter's last one
    refused_until: float = 0.0


class LocalLimits:
    """Counts running answers, and tokens in a bucket that fills within a minute.

    A request of more tokens than the bucket holds is let in by a full one, which is then in debt.

    Args:
        answer_s: says how long an answer takes.
        clock: seconds.
    """

    def __init__(
        self, answer_s: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._answer_s = answer_s
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def num_running(self, tenant: str) -> int:
        """Return how many answers of the tenant wait or are written here."""
        return self._use(tenant).num_running

    def take(self, tenant: str, limits: TenantLimits, num_answers: int, num_tokens: int) -> None:
        """Count a request that is let in.

        Raises:
            RefusedError: it is not.
        """
        use = self._use(tenant)
        if use.refusal is not None and self._clock() < use.refused_until:
            left_s = use.refused_until - self._clock()
            told = use.refusal
            raise RefusedError(told.reason, str(told), max(left_s, told.retry_after_s or 0.0))
        if limits.max_concurrent and use.num_running + num_answers > limits.max_concurrent:
            raise self.too_many(limits, use.num_running)
        if limits.tokens_per_minute:
            self._forgive(use, limits)
            room = limits.tokens_per_minute - use.num_tokens
            missing = min(num_tokens, limits.tokens_per_minute) - room
            if missing > 0:
                raise self.too_fast(limits, missing / limits.tokens_per_minute * MINUTE_S)
        use.num_running += num_answers
        use.num_tokens += num_tokens

    def give(self, tenant: str, num_answers: int, num_unused: int) -> None:
        """Count a request no more, nor those of its tokens that were not used."""
        use = self._use(tenant)
        use.num_running -= num_answers
        use.num_tokens -= num_unused

    def believe(self, tenant: str, refusal: RefusedError) -> None:
        """Refuse the tenant's next requests too, for a moment: all processes' use is too high."""
        use = self._use(tenant)
        use.refusal = refusal
        use.refused_until = self._clock() + min(BELIEVED_S, refusal.retry_after_s or BELIEVED_S)

    def too_many(self, limits: TenantLimits, num_running: int) -> RefusedError:
        """Return the refusal of one answer too many at once."""
        wait_s = self._answer_s() / limits.max_concurrent
        return RefusedError(
            RefusalReason.TENANT_CONCURRENCY,
            f"max_concurrent: this tenant may have {limits.max_concurrent} answers at once, has"
            f" {num_running}; come back in {wait_s:.1f} s",
            wait_s,
        )

    def too_fast(self, limits: TenantLimits, wait_s: float) -> RefusedError:
        """Return the refusal of too many tokens, which will have been forgiven in `wait_s`."""
        return RefusedError(
            RefusalReason.TENANT_TOKENS,
            f"tokens_per_minute: this tenant may use {limits.tokens_per_minute}, has used them;"
            f" come back in {wait_s:.1f} s",
            wait_s,
        )

    def _use(self, tenant: str) -> _Use:
        return self._uses.setdefault(tenant, _Use())

    def _forgive(self, use: _Use, limits: TenantLimits) -> None:
        now = self._clock()
        forgiven = (now - use.at) * limits.tokens_per_minute / MINUTE_S
        use.num_tokens, use.at = max(0.0, use.num_tokens - forgiven), now
