"""Log-probabilities of both replies of every pair, base and reward models, one pass over the data.

Source: the reward r(a) = log p_theta(a) - log p_ref(a) and the decoding score log p_base(a)
+ beta * r(a) are equations 10 and 13 of PAD (arXiv:2410.04070), over the whole vocabulary. With
log-probabilities and the base as reference, the rule of the released code, (1 - beta) * log p_base
+ beta * log p_theta, is the same number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from evaluation.bootstrap import Array
from training.pairs import EncodedPair, PairBatch, make_pair_batch

BATCH_TOKENS = 4096  # padded tokens of a batch


class Backbone(Protocol):
    """A language model whose hidden states and output layer are used apart."""

    def hidden(self, batch: PairBatch) -> Tensor:
        """Return the last hidden states at the scored positions, `[N, D]`."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of hidden states, `[N, V]`."""


class Variant(Protocol):
    """A reward model under one conditioning."""

    @property
    def guided(self) -> bool:
        """Whether theta reads the conversation with the preference in it."""

    def vectors(self, preferences: Sequence[str]) -> Tensor | None:
        """Return w_p and b_p of each preference, `[B, 2D]`, or None where there are none."""

    def logits(self, hidden: Tensor, vectors: Tensor | None) -> Tensor:
        """Return logits of hidden states `[N, D]` under a vector each `[N, 2D]`, `[N, V]`."""


@dataclass(frozen=True)
class PairScores:
    """Sums over the tokens of both replies, `[N, 2]` each: chosen, rejected; in nats."""

    base: Array  # log p of the plain base model
    theta: Array  # log p of the reward model
    normaliser: dict[float, Array]  # by beta: log sum_a p_base(a)^(1 - beta) p_theta(a)^beta
    lengths: Array  # tokens

    @property
    def rewards(self) -> Array:
        """The DPO implicit reward of each reply."""
        return self.theta - self.base

    def score(self, beta: float) -> Array:
        """Return the decoding score of each reply, log p_base + beta * reward."""
        return self.base + beta * self.rewards

    def policy(self, beta: float) -> Array:
        """Return the log-probability of each reply under the guided policy."""
        return self.score(beta) - self.normaliser[beta]


class PairScorer:
    """Runs the models over pairs; variants of one theta share its forward.

    Args:
        base: the plain base model, reference of the rewards.
        theta: the reward model's backbone.
        variants: by name.
        betas: guidance strengths.
    """

    def __init__(
        self,
        base: Backbone,
        theta: Backbone,
        variants: Mapping[str, Variant],
        betas: Sequence[float],
        pad_id: int,
    ) -> None:
        self._base = base
        self._theta = theta
        self._variants = variants
        self._betas = betas
        self._pad_id = pad_id

    @torch.no_grad()
    def score(
        self, pairs: Sequence[EncodedPair], preferences: Sequence[str], label: str = ""
    ) -> dict[str, PairScores]:
        """Return the scores by variant, and those of the base with the preference in its prompt.

        The latter is named `prompted base`; its reward is its own log-ratio to the plain base, and
        of strengths it has beta 0, the plain base, and beta 1, itself.

        Args:
            pairs: their guided prompts hold `preferences`.
            label: name on the progress bar; none without it.
        """
        vectors = {name: one.vectors(preferences) for name, one in self._variants.items()}
        totals = {name: _Totals(len(pairs), self._betas) for name in self._variants}
        totals[PROMPTED] = _Totals(len(pairs), (0.0, 1.0))
        with tqdm(total=len(pairs), desc=label, disable=not label, mininterval=5.0) as bar:
            for group in _groups(pairs):
                self._score_group([pairs[i] for i in group], group, vectors, totals)
                bar.update(len(group))
        return {name: one.done() for name, one in totals.items()}

    def _score_group(
        self,
        pairs: Sequence[EncodedPair],
        group: list[int],
        vectors: Mapping[str, Tensor | None],
        totals: "Mapping[str, _Totals]",
    ) -> None:
        plain = make_pair_batch(pairs, self._pad_id, guided=False)
        guided = make_pair_batch(pairs, self._pad_id, guided=True)
        base = self._base.logits(self._base.hidden(plain)).float().log_softmax(-1)  # [N, V]
        hidden: dict[bool, Tensor] = {}
        for name, variant in self._variants.items():
            if variant.guided not in hidden:
                batch = guided if variant.guided else plain
                hidden[variant.guided] = self._theta.hidden(batch)  # [N, D]
            own = vectors[name]
            rows = None if own is None else own[group][plain.replies // 2]  # [N, 2D]
            theta = variant.logits(hidden[variant.guided], rows).float().log_softmax(-1)
            totals[name].add(group, plain, base, theta)
        prompted = self._base.logits(self._base.hidden(guided)).float().log_softmax(-1)
        totals[PROMPTED].add(group, plain, base, prompted)


PROMPTED = "prompted base"


class _Totals:
    """Sums of one variant over all pairs."""

    def __init__(self, num_pairs: int, betas: Sequence[float]) -> None:
        self._base = np.zeros((num_pairs, 2))
        self._theta = np.zeros((num_pairs, 2))
        self._normaliser = {beta: np.zeros((num_pairs, 2)) for beta in betas}
        self._lengths = np.zeros((num_pairs, 2))

    def add(self, group: list[int], batch: PairBatch, base: Tensor, theta: Tensor) -> None:
        """Add a batch; `base` and `theta` are log-probabilities `[N, V]` of the same tokens."""

        def sums(values: Tensor) -> Array:
            zeros = torch.zeros(2 * len(group), dtype=torch.float64)
            return zeros.index_add(0, batch.replies, values.double()).view(-1, 2).numpy()

        targets = batch.targets[:, None]
        self._base[group] = sums(base.gather(1, targets)[:, 0])
        self._theta[group] = sums(theta.gather(1, targets)[:, 0])
        self._lengths[group] = batch.lengths.double().numpy()
        for beta, total in self._normaliser.items():
            if beta not in (0.0, 1.0):  # there the score is a log-probability already
                total[group] = sums(torch.lerp(base, theta, beta).logsumexp(-1))

    def done(self) -> PairScores:
        """Return the sums."""
        return PairScores(self._base, self._theta, self._normaliser, self._lengths)


def _groups(pairs: Sequence[EncodedPair]) -> list[list[int]]:
    """Return numbers of pairs of similar length, a batch each."""
    sizes = [len(p.guided_prompt) + len(p.chosen) + len(p.rejected) for p in pairs]
    groups: list[list[int]] = []
    for index in sorted(range(len(pairs)), key=sizes.__getitem__):
        if not groups or sizes[index] * (len(groups[-1]) + 1) > BATCH_TOKENS:
            groups.append([])
        groups[-1].append(index)
    return groups
