"""How often the models put the chosen reply of a preference pair above the rejected one.

- RM accuracy: by the reward, the sum (or mean a token) of log p_theta - log p_ref.
- PA-score: by the decoding score, log p_base + beta * reward.
- PA-policy: by log-probability under the guided policy, the softmax of that score over the whole
  vocabulary; the main one, as it is what decoding draws from.

A tie counts one half. Source of policy accuracy: arXiv:2512.23067, read as above.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.bootstrap import Array, Figure, Resampler, figure
from evaluation.pair_scores import PairScorer, PairScores
from training.pair_encoding import PairEncoder
from training.pair_file import Pair

BETAS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
SINGLE, SEEN, UNSEEN = "single", "seen_phrasings", "unseen_phrasings"
PERSONAS, UNSEEN_PERSONAS = "personas", "unseen_personas"


@dataclass(frozen=True)
class PairSet:
    """Pairs, what each counts for, and resamples of their prompts."""

    pairs: tuple[Pair, ...]
    groups: dict[str, NDArray[np.bool_]]  # [N] each
    resampler: Resampler
    rows: NDArray[np.int64]  # [N], the prompt of each pair


def make_pair_set(
    pairs: Sequence[Pair],
    unseen_personas: Sequence[Pair],
    seen_phrases: set[str],
    num_resamples: int,
    seed: int = 0,
) -> PairSet:
    """Return the pairs with their groups.

    Args:
        pairs: one label: a single preference; more: a persona of training.
        unseen_personas: pairs of combinations that no training persona has.
        seen_phrases: the preferences of the training pairs.
    """
    together = (*pairs, *unseen_personas)
    known = len(pairs)
    single = [len(pair.labels) == 1 and i < known for i, pair in enumerate(together)]
    seen = [pair.preference in seen_phrases for pair in together]
    groups = {
        SINGLE: single,
        SEEN: [one and old for one, old in zip(single, seen, strict=True)],
        UNSEEN: [one and not old for one, old in zip(single, seen, strict=True)],
        PERSONAS: [not one and i < known for i, one in enumerate(single)],
        UNSEEN_PERSONAS: [i >= known for i in range(len(together))],
    }
    for name in sorted({p.labels[0] for p, one in zip(together, single, strict=True) if one}):
        groups[name] = [
            one and pair.labels[0] == name for pair, one in zip(together, single, strict=True)
        ]
    prompts = ["\n".join(message.content for message in pair.context) for pair in together]
    resampler = Resampler(sorted(set(prompts)), num_resamples, seed)
    return PairSet(
        together,
        {name: np.array(mask, dtype=np.bool_) for name, mask in groups.items()},
        resampler,
        resampler.rows(prompts),
    )


def shuffled(pairs: PairSet, seed: int = 0) -> PairSet:
    """Return the single-preference pairs, each with the preference of another one at random."""
    chosen = np.flatnonzero(pairs.groups[SINGLE])
    order = Random(seed).sample(chosen.tolist(), len(chosen))
    return PairSet(
        tuple(
            replace(pairs.pairs[i], preference=pairs.pairs[j].preference)
            for i, j in zip(chosen.tolist(), order, strict=True)
        ),
        {SINGLE: np.ones(len(chosen), dtype=np.bool_)},
        pairs.resampler,
        pairs.rows[chosen],
    )


def wins(values: Array) -> Array:
    """Return 1 where the chosen reply is higher, 1/2 at a tie, else 0: `[N, 2]` -> `[N]`."""
    result: Array = 0.5 + 0.5 * np.sign(values[:, 0] - values[:, 1])
    return result


def accuracies(pairs: PairSet, values: Array) -> dict[str, Figure]:
    """Return the accuracy in each group of pairs; groups without pairs have no value.

    Args:
        values: `[N, 2]`, chosen and rejected.
    """
    right = wins(values)
    result = {}
    for name, mask in pairs.groups.items():
        draws = pairs.resampler.means(right[mask], pairs.rows[mask])
        result[name] = figure(draws, int(mask.sum()))
    return result


def accuracy_table(pairs: PairSet, scores: PairScores) -> dict[str, Any]:
    """Return every accuracy of one variant.

    `{"rm": {"sum" | "mean": groups}, "score" | "policy": {beta: {"sum" | "mean": groups}}}`
    """

    def both(values: Array) -> dict[str, dict[str, Figure]]:
        return {
            "sum": accuracies(pairs, values),
            "mean": accuracies(pairs, values / scores.lengths),
        }

    return {
        "rm": both(scores.rewards),
        "score": {f"{beta:g}": both(scores.score(beta)) for beta in scores.normaliser},
        "policy": {f"{beta:g}": both(scores.policy(beta)) for beta in scores.normaliser},
    }


def measure_pairs(
    scorer: PairScorer,
    encoder: PairEncoder,
    pairs: PairSet,
    *,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Return the accuracy tables by variant: `{name: {..., "shuffled": {...}}}`."""
    result: dict[str, Any] = {}
    control = shuffled(pairs)
    for kind, chosen in (("", pairs), ("shuffled", control)):
        encoded = [encoder.encode(pair) for pair in chosen.pairs]
        preferences = [pair.preference for pair in chosen.pairs]
        label = ("pairs " + kind).strip() if show_progress else ""
        scores: Mapping[str, PairScores] = scorer.score(encoded, preferences, label)
        for name, one in scores.items():
            table = accuracy_table(chosen, one)
            if kind:
                result[name][kind] = table
            else:
                result[name] = table
    return result
