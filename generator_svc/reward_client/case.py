"""What the pool knows of one reward session: where it is, since when, what came for it."""

from dataclasses import dataclass, field

from torch import Tensor

from generator_svc.engine.scorer import RewardSession
from generator_svc.reward_client.placement import Placement
from generator_svc.reward_client.replica import Replica


@dataclass(frozen=True)
class LateAnswer:
    """Rewards `[K]` that came for a step when nobody waited any more."""

    step: int
    rewards: Tensor
    by_preference: Tensor | None  # [P, K]
    model_version: str


@dataclass(eq=False)
class Case:
    """One session's way over the replicas; times by `time.monotonic`."""

    session: RewardSession
    started: float  # when its opening began
    deadline: float  # when it must be done
    epoch: int = 0  # openings so far
    num_failures: int = 0  # lost places since its last reward
    replica: Replica | None = None
    placement: Placement | None = None
    avoid: set[str] = field(default_factory=set)  # addresses that had no room or did not answer
    lost_at: str = ""  # address of the replica that failed it last
    placed: float = 0.0  # when its replica was asked to open it
    retry_at: float = 0.0  # earliest next placement
    was_full: bool = False  # a replica had no room
    answer: LateAnswer | None = None  # came and was not taken yet

    @property
    def step(self) -> int:
        """Position of the token its rewards are for."""
        return len(self.session.token_ids)

    def take_answer(self) -> LateAnswer | None:
        """Return the rewards for its step, once, or None if there are none."""
        if self.answer is None or self.answer.step != self.step:
            return None
        answer, self.answer = self.answer, None
        self.session.model_version = answer.model_version
        return answer

    def leave(self) -> None:
        """Have its replica, if it has one, free its rows."""
        if self.replica is not None and self.placement is not None:
            self.replica.close(self.placement)
        self.replica = self.placement = None
