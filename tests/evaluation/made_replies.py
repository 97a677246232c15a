"""Hand-made replies of which every figure can be worked out on paper."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evaluation.bootstrap import Array
from evaluation.cells import Measured, arrange
from evaluation.records import Reply, Setting
from evaluation.scorers import DIMENSIONS, sign
from training.wishes import DIRECTIONS

MAIN = Setting("pad", "prompt", 1.0, 10)
PROMPTS = tuple(f"e{i}" for i in range(8))


def reply(
    setting: Setting, user: str, prompt: str, text: str = "Fine.", **changes: object
) -> Reply:
    """Return a reply of `setting`; single users wish what their name says."""
    wishes = (user.removeprefix("unseen:"),) if ":" in user else ()
    made = Reply(
        contender=setting.contender,
        variant=setting.variant,
        beta=setting.beta,
        k=setting.k,
        n=setting.n,
        user=user,
        directions=wishes,
        preference="",
        phrase_seen=True,
        prompt_id=prompt,
        text=text,
        num_tokens=10,
        ended=True,
        kl_per_token=0.0,
        seconds=0.1,
        model_tokens=20,
        multi=setting.multi,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def base_score(prompt: int) -> float:
    """Return the base's score on every dimension: -1 and 1 in turn, so mean 0 and deviation 1."""
    return 1.0 if prompt % 2 else -1.0


class World:
    """Replies with chosen scores: the base, and users who move by so many deviations."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.scores: list[list[float]] = []
        self.losses: list[tuple[float, float]] = []
        for i, prompt in enumerate(PROMPTS):
            self.add(reply(Setting("base"), "base", prompt), [base_score(i)] * len(DIMENSIONS))

    def add(self, one: Reply, scores: Sequence[float], loss: float = 10.0) -> None:
        """Add a reply; `loss` is its summed loss under the judge over 10 tokens."""
        self.replies.append(one)
        self.scores.append(list(scores))
        self.losses.append((loss, 10.0))

    def add_users(
        self,
        setting: Setting,
        step: float,
        prompts: Sequence[str] = PROMPTS,
        prefix: str = "",
        loss: float = 10.0,
        **changes: object,
    ) -> None:
        """Add the twelve single users; each moves its own attribute by `step` the way it asks."""
        for name in DIRECTIONS:
            column = DIMENSIONS.index(name.split(":")[0])
            for prompt in prompts:
                scores = [base_score(PROMPTS.index(prompt))] * len(DIMENSIONS)
                scores[column] += sign(name) * step
                self.add(reply(setting, prefix + name, prompt, **changes), scores, loss)

    def measured(self, num_resamples: int = 200) -> Measured:
        """Return everything arranged; the plain counts are twice the scores."""
        scores: Array = np.array(self.scores)
        return arrange(
            self.replies, scores, 2 * scores, np.array(self.losses), num_resamples, seed=0
        )
