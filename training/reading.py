"""Teach the model to read the stated preference before replies are compared.

Preference pairs alone teach a small model nothing for a long time: their gradient is small until
some hidden state knows the preference (measured: no progress in 4,000 pairs). So a linear probe in
the middle of the model first learns to name the preference's labels at every token after it,
which takes a few dozen steps, while the chosen replies keep the model a writer. The probe is
dropped afterwards.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.backbone import Backbone
from training.pair_file import Pair
from training.pairs import EncodedPair
from training.recipe import ReadingSettings
from training.recipe_file import RecipeError


class ReadingTask(nn.Module):
    """The model with a probe that names the preference's labels after a middle layer."""

    def __init__(self, backbone: Backbone, num_labels: int, settings: ReadingSettings) -> None:
        super().__init__()
        self.model = backbone.model
        self.probe = nn.Linear(backbone.hidden_size, num_labels, device=backbone.device)
        self._backbone = backbone
        num_layers = int(self.model.config.num_hidden_layers)
        self._layer = settings.probe_layer or (num_layers + 1) // 2
        self._first_token = settings.probe_start

    def forward(self, token_ids: Tensor, lengths: Tensor, starts: Tensor, wanted: Tensor) -> Tensor:
        """Return the probe's loss plus the replies' loss, each a mean over its tokens.

        Args:
            token_ids: `[B, T]`, right-padded: prompt with the preference, chosen reply.
            lengths: `[B]` tokens of each row.
            starts: `[B]` tokens of each prompt.
            wanted: `[B, L]` float32, the share of each label; rows add up to 1.
        """
        output = self.model.base_model(
            input_ids=token_ids, use_cache=False, output_hidden_states=True
        )
        middle = output.hidden_states[self._layer].float()  # [B, T, D]
        probe_logits = self.probe(functional.rms_norm(middle, middle.shape[-1:]))  # [B, T, L]
        at = torch.arange(token_ids.shape[1], device=token_ids.device)  # [T]
        judged = (at >= self._first_token) & (at < lengths.unsqueeze(1))  # [B, T]
        targets = wanted.unsqueeze(1).expand_as(probe_logits)[judged]  # [N, L]
        if len(targets):
            probe_loss = functional.cross_entropy(probe_logits[judged].float(), targets)
        else:  # every row is short; the probe still takes part, as several processes need
            probe_loss = 0.0 * probe_logits.sum()
        scored = (at >= starts.unsqueeze(1)) & (at < lengths.unsqueeze(1))  # [B, T]
        sources = output.last_hidden_state[:, :-1][scored[:, 1:]]  # [M, D]
        logits = self._backbone.logits(sources)  # [M, V]
        return probe_loss + functional.cross_entropy(logits, token_ids[:, 1:][scored[:, 1:]])


class ReadingCollator:
    """Makes the tensors of a group of pairs; see `ReadingTask.forward`.

    Args:
        pairs: token ids of the pairs.
        labels: of each pair, as numbers below `num_labels`.
    """

    def __init__(
        self,
        pairs: Sequence[EncodedPair],
        labels: Sequence[Sequence[int]],
        num_labels: int,
        pad_id: int,
    ) -> None:
        self._pairs = pairs
        self._labels = labels
        self._num_labels = num_labels
        self._pad_id = pad_id

    def num_tokens(self) -> list[int]:
        """Return the length of each pair's row."""
        return [len(pair.guided_prompt) + len(pair.chosen) for pair in self._pairs]

    def __call__(self, group: Sequence[int]) -> dict[str, Tensor]:
        """Return the tensors of the pairs with these numbers."""
        pairs = [self._pairs[i] for i in group]
        starts = [len(pair.guided_prompt) for pair in pairs]
        lengths = [start + len(p.chosen) for start, p in zip(starts, pairs, strict=True)]
        token_ids = np.full((len(pairs), max(lengths)), self._pad_id, dtype=np.int64)
        wanted = torch.zeros((len(pairs), self._num_labels))  # [B, L]
        for row, (pair, start, length) in enumerate(zip(pairs, starts, lengths, strict=True)):
            token_ids[row, :start] = pair.guided_prompt
            token_ids[row, start:length] = pair.chosen
            labels = list(self._labels[group[row]])
            wanted[row, labels] = 1.0 / len(labels)
        return {
            "token_ids": torch.from_numpy(token_ids),
            "lengths": torch.tensor(lengths),
            "starts": torch.tensor(starts),
            "wanted": wanted,
        }


def check_probe_layer(settings: ReadingSettings, num_layers: int) -> None:
    """Refuse a probe behind the model's last layer.

    Raises:
        RecipeError: it is.
    """
    if settings.num_steps and settings.probe_layer > num_layers:
        rule = f"must be at most the model's number of layers {num_layers}"
        raise RecipeError(f"reading.probe_layer: {rule}, got {settings.probe_layer}")


def check_probe_start(settings: ReadingSettings, num_tokens: Sequence[int]) -> None:
    """Refuse a start behind the end of every row.

    Args:
        num_tokens: of each row.

    Raises:
        RecipeError: it is.
    """
    longest = max(num_tokens)
    if settings.probe_start >= longest:
        rule = f"must be below the number of tokens {longest} of the longest row"
        raise RecipeError(f"reading.probe_start: {rule}, got {settings.probe_start}")


def label_numbers(pairs: Sequence[Pair]) -> tuple[list[list[int]], list[str]]:
    """Return the labels of each pair as numbers, and all labels in the order of those numbers."""
    names = sorted({label for pair in pairs for label in pair.labels})
    numbers = {name: number for number, name in enumerate(names)}
    return [[numbers[label] for label in dict.fromkeys(pair.labels)] for pair in pairs], names
