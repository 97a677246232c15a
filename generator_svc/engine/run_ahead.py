"""When it pays to run on with the base model's own choice while the rewards are on their way."""

from dataclasses import dataclass

from generator_svc.engine.scorer import RewardTimes

SMOOTHING = 0.05  # share of the newest step in a running mean
MIN_STEPS = 20  # before that nothing is known
UNKNOWN = RewardTimes()


@dataclass
class RunAhead:
    """Decides from running means what a step without and with a guess would take.

    A guess for each of B rows runs their next forward (t seconds) here, and the reward model's (r)
    there, while the rewards of this step come. These take w seconds beyond what they wait for the
    reward model's forward, which runs beside ours with a guess or without. With the share a of
    tokens that the profile leaves as they are, all B guesses are right with probability a^B; then w
    is hidden. Else the rows that were wrong need both forwards again. Expected seconds of a step:

        without: max(t, r) + w          with: max(t, r, w) + (1 - a^B) * max(t, r)

    Args:
        is_allowed: False: never.
    """

    is_allowed: bool
    num_steps: int = 0
    _forward_s: float = 0.0
    _reward_s: float = 0.0
    _wait_s: float = 0.0
    _kept: float = 0.0  # a

    def pays(self, num_rows: int) -> bool:
        """Whether a step of `num_rows` guided rows is shorter with a guess."""
        if not self.is_allowed or self.num_steps < MIN_STEPS:
            return False
        forward_s, wait_s = max(self._forward_s, self._reward_s), self._wait_s
        ahead_s = max(forward_s, wait_s) + (1 - self._kept**num_rows) * forward_s
        return ahead_s < forward_s + wait_s

    def note_forward(self, seconds: float) -> None:
        """A decode forward took this long."""
        self._forward_s += (seconds - self._forward_s) * self._weight

    def note_step(
        self, wait_s: float, num_kept: int, num_rows: int, times: RewardTimes = UNKNOWN
    ) -> None:
        """Rewards took this long, `times` included; of `num_rows` tokens it kept `num_kept`."""
        self.num_steps += 1
        self._wait_s += (max(0.0, wait_s - times.queue_s) - self._wait_s) * self._weight
        self._reward_s += (times.forward_s - self._reward_s) * self._weight
        self._kept += (num_kept / num_rows - self._kept) * self._weight

    @property
    def _weight(self) -> float:
        """Of the newest value: the plain mean at first."""
        return max(SMOOTHING, 1 / max(1, self.num_steps))
