"""What the engine tells about itself, for metrics."""

from typing import Protocol

from generator_svc.engine.sequence import ChosenToken, Sequence


class EngineObserver(Protocol):
    """Receives measurements; must not raise and must be quick, as it runs in the engine loop."""

    def phase(self, name: str, seconds: float) -> None:
        """One phase of a step took `seconds`: generator_forward, reward_wait, select or emit."""

    def batch(self, num_rows: int) -> None:
        """A forward ran `num_rows` decoding sequences."""

    def ran_ahead(self, *, num_kept: int, num_redone: int) -> None:
        """Rows ran on with a guess while their rewards came; it was right for `num_kept`."""

    def load(self, *, num_active: int, num_waiting: int, num_free_slots: int) -> None:
        """The engine's load after a step."""

    def started(self, sequence: Sequence) -> None:
        """A sequence left the queue; its `timings` say after how long."""

    def left(self, phase: str, num_steps: int) -> None:
        """A sequence whose reader left ended that many steps later; `phase`: see `Sequence`."""

    def token(self, token: ChosenToken, sequence: Sequence, since_last_s: float | None) -> None:
        """A token was chosen; `since_last_s` is None for an answer's first."""

    def settle(self) -> None:
        """A forward runs, or nothing does: what was told may now be counted at leisure."""
