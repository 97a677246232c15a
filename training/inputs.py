"""What a run learns from: its pairs as token ids, and the frozen reference's scores of them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from training.backbone import Backbone
from training.dpo import reply_log_probs
from training.pair_encoding import PairEncoder, PairTable, pack
from training.pair_file import Pair, read_pair_files
from training.pairs import PairBatch, make_pair_batch
from training.parallel import in_parts
from training.recipe import ComputeSettings, Recipe
from training.recipe_file import RecipeError

SCORE_TOKENS = 4096  # padded tokens scored at a time


@dataclass(frozen=True)
class PairSet:
    """Pairs, their token ids, and log p_ref of their replies, `[N, 2]` float32."""

    pairs: list[Pair]
    table: PairTable
    reference: Tensor


class InputReader:
    """Reads pair files for one run; what is computed is kept in `folder`.

    Args:
        folder: of the phase `inputs`.
    """

    def __init__(
        self, recipe: Recipe, encoder: PairEncoder, folder: Path, state: PartialState
    ) -> None:
        self._recipe = recipe
        self._encoder = encoder
        self._folder = folder
        self._state = state

    def training_pairs(self) -> list[Pair]:
        """Return the pairs to train on, drawn at random if there are more than wanted.

        Raises:
            PairFileError: a file is wrong.
        """
        data = self._recipe.data
        pairs = read_pair_files([Path(path) for path in data.train])
        if 0 < data.max_pairs < len(pairs):
            pairs = Random(self._recipe.seed).sample(pairs, data.max_pairs)
        return pairs

    def pair_set(self, name: str, pairs: Sequence[Pair], backbone: Backbone) -> PairSet:
        """Return `pairs` that fit, with the scores of the backbone, which is yet untrained.

        Args:
            name: of the files that keep ids and scores.

        Raises:
            PairFileError: the tokenizer refuses a pair.
            RecipeError: none fits.
        """
        recipe, state = self._recipe, self._state
        tokens = in_parts(
            state,
            self._folder / f"{name}-tokens.safetensors",
            len(pairs),
            lambda own: pack([self._encoder.encode(pairs[i]) for i in own]),
        )
        table = PairTable(tokens["ids"], tokens["lengths"], recipe.data.max_tokens)
        if not table:
            shortest = int(tokens["lengths"][:, 1:].sum(1).min())
            rule = f"must leave some pairs, the shortest of which has {shortest} tokens"
            raise RecipeError(f"data.max_tokens: {rule}, got {recipe.data.max_tokens}")
        label = f"reference, {name}" if state.is_main_process else None

        def compute(own: range) -> dict[str, Tensor]:
            return {
                "scores": score_pairs(
                    lambda batch, _: reply_log_probs(backbone, batch),
                    table, own, self._encoder.pad_id, False, recipe.compute, backbone.device, label,
                )
            }  # fmt: skip

        with backbone.untrained():
            path = self._folder / f"{name}-reference.safetensors"
            scores = in_parts(state, path, len(table), compute)
        return PairSet([pairs[i] for i in table.numbers], table, scores["scores"])


def shuffled_preferences(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs, each with the preference of another one drawn at random: a control."""
    others = Random(0).sample(list(pairs), len(pairs))
    return [
        replace(pair, preference=other.preference)
        for pair, other in zip(pairs, others, strict=True)
    ]


def precision(compute: ComputeSettings, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which matrix products have the recipe's precision."""
    if compute.autocast == "none":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


@torch.no_grad()
def score_pairs(
    log_probs: Callable[[PairBatch, list[int]], Tensor],
    table: PairTable,
    numbers: Sequence[int],
    pad_id: int,
    guided: bool,
    compute: ComputeSettings,
    device: torch.device,
    label: str | None,
) -> Tensor:
    """Return the replies' log-probabilities of some pairs, `[len(numbers), 2]` float32.

    Args:
        log_probs: from a batch and the numbers of its pairs to `[B, 2]`.
        numbers: which pairs of the table.
        label: on the progress bar; none without it.
    """
    scores = torch.zeros((len(numbers), 2))
    lengths = table.row_lengths(guided)
    groups = groups_of_like_length([lengths[i] for i in numbers])
    for group in tqdm(groups, desc=label, disable=label is None, mininterval=5.0):
        chosen = [numbers[i] for i in group]
        batch = make_pair_batch([table[i] for i in chosen], pad_id, guided).to(device)
        with precision(compute, device):
            scores[group] = log_probs(batch, chosen).float().cpu()
    return scores


def groups_of_like_length(lengths: Sequence[int]) -> list[list[int]]:
    """Return groups of indices into `lengths`, each at most `SCORE_TOKENS` when padded."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not groups or lengths[index] * (len(groups[-1]) + 1) > SCORE_TOKENS:
            groups.append([])
        groups[-1].append(index)
    return groups
