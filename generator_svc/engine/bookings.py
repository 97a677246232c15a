"""When those who are refused should come back: one after the other, as places come free."""

import time
from collections.abc import Callable

from generator_svc.engine.service_rate import ServiceRate
from svc_common.errors import RETRY_AFTER_S

MIN_RETRY_S = 0.05
MAX_RETRY_S = 60.0
_GOLDEN = 0.618034  # its multiples, modulo 1, lie evenly
_MAX_TENANTS = 1024


class Bookings:
    """Gives each refused request of a tenant a time of its own, at the rate that was measured.

    Who comes back then finds a place, unless others came without having been told. Told all the
    same, they would be refused together again. A tenant that does not listen only pushes its own
    times back.

    Args:
        rate: how fast places come free.
        clock: seconds.
    """

    def __init__(self, rate: ServiceRate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._booked_until: dict[str, float] = {}
        self._num_far = 0

    def book(self, tenant: str, num_tokens: int) -> float:
        """Return after how many seconds a request of `num_tokens` should come again."""
        now = self._clock()
        own_s = self._rate.drain_s(num_tokens)
        if not own_s:
            return RETRY_AFTER_S
        if len(self._booked_until) > _MAX_TENANTS:
            booked = self._booked_until.items()
            self._booked_until = {its: at for its, at in booked if at > now}
        at = max(now, self._booked_until.get(tenant, now)) + own_s
        if at > now + MAX_RETRY_S:
            self._num_far += 1
            return MAX_RETRY_S * (0.5 + 0.5 * (self._num_far * _GOLDEN % 1.0))
        self._booked_until[tenant] = at
        return max(MIN_RETRY_S, at - now)
