"""Times the pool of replicas keeps to, and who is told how it fares."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class PoolLimits:
    """Times the pool keeps to, in seconds."""

    step_timeout_s: float  # a replica that owes rewards longer than this is given up
    open_timeout_s: float  # a session without a place longer than this fails
    resolve_interval_s: float  # how often names are looked up


class PoolObserver(Protocol):
    """What the pool tells about itself."""

    def failover(self) -> None:
        """A session lost its replica and moves to another."""

    def circuit_changed(self, state: str) -> None:
        """A replica is left alone (`open`), or was found to be well again (`closed`)."""

    def reward_model_changed(self) -> None:
        """An answer goes on with another version of the reward model."""

    def replica_batch(self, queue_s: float, forward_s: float, select_s: float) -> None:
        """A replica answered a batch."""
