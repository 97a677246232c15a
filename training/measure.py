"""How often the reward prefers the chosen reply of dev pairs: in all, by label, with controls."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.context import RunContext
from training.dpo import dpo_margins
from training.inputs import PairSet, score_pairs
from training.pair_file import Pair
from training.pairs import PairBatch
from training.parallel import in_parts

Scorer = Callable[[PairBatch, list[int]], Tensor]


@dataclass(frozen=True)
class RunInputs:
    """The pair sets of a run.

    `control` has the dev pairs with shuffled preferences; both are None without dev files.
    """

    train: PairSet
    dev: PairSet | None
    control: PairSet | None


def measure(
    context: RunContext,
    inputs: RunInputs,
    name: str,
    scorer: Callable[[PairSet], Scorer],
    guided: bool,
) -> None:
    """Score the dev pairs and note the figures of a phase.

    Args:
        name: of the phase.
        scorer: makes, for a pair set, the function that scores a batch of it.
        guided: whether the prompts state the preference.
    """
    if inputs.dev is None or inputs.control is None:
        return
    folder = context.folder.phase(name)
    own = _margins(context, inputs.dev, folder / "dev-scores.safetensors", scorer, guided)
    shuffled = _margins(
        context, inputs.control, folder / "control-scores.safetensors", scorer, guided
    )
    seen = {pair.preference for pair in inputs.train.pairs}
    figures = reward_accuracy(own, inputs.dev.pairs, seen)
    figures["accuracy_shuffled_preferences"] = share_right(shuffled)
    context.say(f"{name}, dev: {json.dumps(figures)}")
    context.folder.update_metrics({f"{name}_dev": figures})


def reward_accuracy(margins: Tensor, pairs: Sequence[Pair], seen: set[str]) -> dict[str, Any]:
    """Return the shares of pairs ranked right; ties count half.

    Args:
        margins: `[N]`, r(chosen) - r(rejected).
        pairs: the N dev pairs.
        seen: the preference texts of training; unseen phrasings are counted over pairs of at most
            one label, as others join the texts of several.
    """
    groups = [pair.group for pair in pairs]
    unseen = [len(pair.labels) < 2 and pair.preference not in seen for pair in pairs]
    return {
        "num_pairs": len(pairs),
        "accuracy": share_right(margins),
        "num_pairs_unseen_phrasings": sum(unseen),
        "accuracy_unseen_phrasings": share_right(margins[torch.tensor(unseen)]),
        "accuracy_by_label": {
            name: share_right(margins[torch.tensor([name == other for other in groups])])
            for name in sorted(set(groups) - {""})
        },
    }


def share_right(margins: Tensor) -> float | None:
    """Return the share of positive margins, ties half; None of no margins."""
    if not len(margins):
        return None
    right = (margins > 0).float() + 0.5 * (margins == 0).float()
    return round(float(right.mean()), 4)


def _margins(
    context: RunContext,
    pairs: PairSet,
    path: Path,
    scorer: Callable[[PairSet], Scorer],
    guided: bool,
) -> Tensor:
    log_probs = scorer(pairs)
    label = path.stem if context.state.is_main_process else None

    def compute(own: range) -> dict[str, Tensor]:
        scores = score_pairs(
            log_probs, pairs.table, own, context.encoder.pad_id, guided,
            context.recipe.compute, context.state.device, label,
        )  # fmt: skip
        return {"scores": scores}

    theta = in_parts(context.state, path, len(pairs.table), compute)["scores"]
    return dpo_margins(theta, pairs.reference)
