"""What a phase computes in which step, and how fast it learns there: all fixed beforehand."""

import math
from collections.abc import Sequence
from random import Random

from torch.utils.data import Dataset

from training.encoding import group_by_length
from training.recipe import Schedule

Group = list[int]


class Groups(Dataset[Group]):
    """The groups of a phase, in order."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> Group:
        return self._groups[index]


def plan_groups(lengths: Sequence[int], schedule: Schedule, seed: int) -> list[Group]:
    """Return the groups of a whole phase: epoch after epoch, each shuffled anew.

    Args:
        lengths: tokens of each item; a group holds item numbers.
    """
    rng = Random(seed)
    wanted = schedule.num_steps * schedule.groups_per_step
    groups: list[Group] = []
    while len(groups) < wanted:
        groups += group_by_length(
            range(len(lengths)),
            lengths.__getitem__,
            schedule.tokens_per_group,
            rng,
            schedule.pairs_per_group,
        )
    return groups[:wanted]


def rate_share(step: int, schedule: Schedule) -> float:
    """Return the learning rate of `step` (0-based) as a share of the peak: warm-up, then cosine."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    rest = max(1, schedule.num_steps - schedule.warmup_steps)
    done = min(1.0, (step - schedule.warmup_steps) / rest)
    low = schedule.final_lr_share
    return low + (1 - low) * (1 + math.cos(math.pi * done)) / 2
