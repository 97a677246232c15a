"""What a replica tells the pool of it and of the sessions there."""

from typing import TYPE_CHECKING, Protocol

from generator_svc.reward_client.breaker import Circuit
from generator_svc.reward_client.placement import Placement
from pad.v1 import reward_pb2

if TYPE_CHECKING:
    from generator_svc.reward_client.replica import Replica


class ReplicaEvents(Protocol):
    """What a replica tells the pool."""

    def replica_ready(self, replica: "Replica") -> None:
        """Sessions can be opened on it."""

    def replica_lost(self, replica: "Replica", placements: list[Placement]) -> None:
        """Its stream ended; these sessions have no place any more."""

    def replica_draining(self, replica: "Replica", placements: list[Placement]) -> None:
        """It will stop once these sessions have left."""

    def circuit_changed(self, replica: "Replica", circuit: Circuit) -> None:
        """It is left alone for a while, or was found to be well again."""

    def session_opened(
        self, replica: "Replica", placement: Placement, opened: reward_pb2.SessionOpened
    ) -> None:
        """A session can be scored."""

    def session_failed(
        self, replica: "Replica", placement: Placement, error: reward_pb2.RowError
    ) -> None:
        """A session has lost its place on this replica."""

    def batch_timed(self, timings: reward_pb2.StepTimings) -> None:
        """How long the replica took for a batch."""
