"""A reply to be written: which models read what for it; and what came of it."""

from dataclasses import dataclass

from torch import Tensor

from evaluation.models import RewardVariant
from evaluation.reader import Read


@dataclass(frozen=True)
class ThetaRow:
    """One preference: what theta reads, its weight, and its w_p and b_p `[2D]` if it has any."""

    read: Read
    weight: float
    vector: Tensor | None = None


@dataclass(frozen=True)
class Guide:
    """The rewards of a reply.

    `reference` is what rewards are measured against; None: the speaking model, as `pad-released`.
    """

    variant: RewardVariant
    rows: tuple[ThetaRow, ...]
    reference: Read | None
    beta: float

    @property
    def weight(self) -> float:
        """The sum of the preferences' weights."""
        return sum(row.weight for row in self.rows)


@dataclass(frozen=True)
class Job:
    """One reply to be written.

    Args:
        speaker: the model that offers the candidates, and its prompt.
        plain: the base model on the bare conversation, which KL is measured against.
        num_candidates: K.
    """

    speaker: Read
    plain: Read
    num_candidates: int
    guide: Guide | None = None
    temperature: float = 0.0
    seed: int = 0

    @property
    def charged(self) -> set[Read]:
        """What must run to write the reply; the plain base may run for the KL alone."""
        guide = self.guide
        reads = {self.speaker} | {row.read for row in guide.rows} if guide else {self.speaker}
        return reads | {guide.reference} if guide and guide.reference else reads

    def num_model_tokens(self, num_tokens: int) -> int:
        """Return the token-forwards of all models for a reply of `num_tokens`, as served.

        The services run the reference beside the base model even where the two are the same.
        """
        roles = [self.speaker]
        if self.guide is not None:
            roles += {row.read: None for row in self.guide.rows}
            roles += [self.guide.reference] if self.guide.reference else []
        return sum(len(read.token_ids) + num_tokens - 1 for read in roles)


@dataclass(frozen=True)
class Written:
    """A reply with its end mark, if it came to one, and what it cost.

    Seconds are those of the processor, so that other work on the machine does not count.
    """

    token_ids: list[int]
    ended: bool
    kl_per_token: float  # nats; 0 where tokens were drawn
    prompt_seconds: float
    seconds: float  # prompts included
    model_tokens: int
