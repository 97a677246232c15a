"""The decoding methods: a row of settings each, no code of their own."""

from dataclasses import dataclass
from enum import Enum


class Reference(Enum):
    """What rewards are measured against."""

    BACKBONE = "backbone"  # the reward model's frozen backbone
    BASE = "base"  # the generator's base model


@dataclass(frozen=True)
class Strategy:
    """One decoding method.

    Args:
        name: as users write it.
        reference: what rewards are measured against; None: no rewards.
        guides_steps: every token is chosen with rewards.
        prompts_base: the preferences stand in the base model's prompt.
        ranks_samples: rewards pick one of several whole answers.
        temperature: used where the request names none.
    """

    name: str
    reference: Reference | None = None
    guides_steps: bool = False
    prompts_base: bool = False
    ranks_samples: bool = False
    temperature: float = 0.0

    @property
    def needs_preferences(self) -> bool:
        return self.prompts_base or self.reference is not None


STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy("base"),
        Strategy("prompt", prompts_base=True),
        Strategy("pad", reference=Reference.BACKBONE, guides_steps=True),
        Strategy("pad-released", reference=Reference.BASE, guides_steps=True),
        Strategy("best-of-n", reference=Reference.BACKBONE, ranks_samples=True, temperature=0.7),
    )
}
