"""How the profile store may behave, and what it tells others."""

from dataclasses import dataclass
from typing import Literal, Protocol

from generator_svc.redis_calls import FailureKind
from generator_svc.store_pulse import Patience

LookupSource = Literal["local", "redis", "stale", "inline", "unavailable", "damaged"]


class StoreObserver(Protocol):
    """Receives what becomes of look-ups, of calls to Redis, and of copies; must be quick."""

    def profile_lookup(self, source: LookupSource) -> None:
        """Say where the profile of a `load` came from."""

    def store_failure(self, kind: FailureKind) -> None:
        """Say that a call of Redis came to nothing, and why."""

    def store_is_up(self, is_up: bool) -> None:
        """Say whether Redis, or all nodes of a cluster, answer, when that changes."""

    def changes_missed(self) -> None:
        """Say that all copies were dropped, as changes may have been missed."""


class Caches(Protocol):
    """What else has copies of what users wrote."""

    async def forget(self, subject: bytes) -> None:
        """Drop what is kept for a user, by `subject_of`; return when it is gone, or given up."""

    def note_erasure(self, subject: bytes) -> None:
        """Have what is kept for a user dropped, without waiting for it."""

    def note_gap(self) -> None:
        """Hear that erasures may have been missed."""


@dataclass(frozen=True)
class StoreOptions:
    """How long the store waits and how long things stay; all in seconds but the two `max_`.

    Attributes:
        timeout_s: Redis is unavailable if an operation takes longer.
        quick_s: A request that can be answered without Redis waits no longer than this for it.
        probe_interval_s: While Redis is down it is asked so often whether it is back.
        local_ttl_s: A local copy serves for this long unless it is told to be outdated.
        stale_window_s: Age up to which a local copy serves while Redis is unavailable.
        max_local_profiles: Local copies kept.
        max_revisions: Earlier revisions that are kept of a profile.
        encoding_ttl_s: An encoding stays in Redis for this long.
        tombstone_ttl_s: A deleted profile's revision is remembered for this long.
        expiry_interval_s: Local copies that are too old are looked for so often.
    """

    timeout_s: float = 0.15
    quick_s: float = 0.04
    probe_interval_s: float = 0.25
    local_ttl_s: float = 30.0
    stale_window_s: float = 600.0
    max_local_profiles: int = 10_000
    max_revisions: int = 10
    encoding_ttl_s: float = 86_400.0
    tombstone_ttl_s: float = 600.0
    expiry_interval_s: float = 10.0

    @property
    def patience(self) -> Patience:
        """How long Redis is waited for."""
        return Patience(self.timeout_s, self.quick_s, self.probe_interval_s)
