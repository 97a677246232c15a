"""Preference pairs as batches in which chosen and rejected reply share one prompt.

Both replies follow the prompt in one row, `prompt | chosen | rejected`. The rejected reply starts
again at the position after the prompt and cannot see the chosen one, so each reply's
log-probability is what it would be alone, for about 60 % of the tokens of two separate rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

PROMPT, CHOSEN, REJECTED = 0, 1, 2


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of one pair."""

    plain_prompt: Sequence[int]
    guided_prompt: Sequence[int]
    chosen: Sequence[int]
    rejected: Sequence[int]

    def prompt(self, guided: bool) -> Sequence[int]:
        """Return the prompt, with or without the stated preference."""
        return self.guided_prompt if guided else self.plain_prompt


@dataclass(frozen=True)
class PairBatch:
    """Rows `prompt | chosen | rejected`, right-padded, and where to read the replies' tokens.

    The N scored tokens are those of all replies: token `targets[n]` is predicted at flat position
    `sources[n]` and belongs to reply `replies[n]` = 2 * row + (0 chosen, 1 rejected).
    """

    token_ids: Tensor  # [B, T] int64
    positions: Tensor  # [B, T] int64
    kinds: Tensor  # [B, T] int64: PROMPT, CHOSEN, REJECTED
    sources: Tensor  # [N] int64, into B * T
    targets: Tensor  # [N] int64
    replies: Tensor  # [N] int64, into 2 * B
    lengths: Tensor  # [B, 2] float32, tokens of each reply

    def to(self, device: torch.device) -> "PairBatch":
        """Return the batch on `device`."""
        return PairBatch(**{name: value.to(device) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def make_pair_batch(pairs: Sequence[EncodedPair], pad_id: int, guided: bool) -> PairBatch:
    """Return one batch; `guided` puts the stated preference into the prompts."""
    sizes = [(len(p.prompt(guided)), len(p.chosen), len(p.rejected)) for p in pairs]
    shape = (len(pairs), max(map(sum, sizes)))
    token_ids = np.full(shape, pad_id, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    kinds = np.zeros(shape, dtype=np.int64)
    sources: list[Sequence[int]] = []
    targets: list[Sequence[int]] = []
    replies: list[Sequence[int]] = []
    for index, (pair, (start, num_chosen, num_rejected)) in enumerate(
        zip(pairs, sizes, strict=True)
    ):
        split, end = start + num_chosen, start + num_chosen + num_rejected
        token_ids[index, :start] = pair.prompt(guided)
        token_ids[index, start:split] = pair.chosen
        token_ids[index, split:end] = pair.rejected
        positions[index, :split] = np.arange(split)
        positions[index, split:end] = np.arange(start, start + num_rejected)
        kinds[index, start:split] = CHOSEN
        kinds[index, split:end] = REJECTED
        offset = index * shape[1]
        last = [offset + start - 1]  # both replies' first tokens follow the prompt
        sources += [last, range(offset + start, offset + split - 1)]
        sources += [last, range(offset + split, offset + end - 1)]
        targets += [pair.chosen, pair.rejected]
        replies += [[2 * index] * num_chosen, [2 * index + 1] * num_rejected]
    return PairBatch(
        torch.from_numpy(token_ids),
        torch.from_numpy(positions),
        torch.from_numpy(kinds),
        _joined(sources),
        _joined(targets),
        _joined(replies),
        torch.tensor([sizes_of[1:] for sizes_of in sizes], dtype=torch.float32),
    )


def pair_mask(kinds: Tensor) -> Tensor:
    """Return the causal mask in which rejected tokens do not see chosen ones, `[B, 1, T, T]` bool.

    Args:
        kinds: `[B, T]`, PROMPT, CHOSEN or REJECTED; padding stands last and is never seen.
    """
    num_tokens = kinds.shape[1]
    ones = torch.ones((num_tokens, num_tokens), dtype=torch.bool, device=kinds.device)
    crossing = (kinds == REJECTED).unsqueeze(2) & (kinds == CHOSEN).unsqueeze(1)  # [B, T, T]
    return (ones.tril() & ~crossing).unsqueeze(1)  # [B, 1, T, T]


def _joined(parts: Sequence[Sequence[int]]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))


def scored_states(model: PreTrainedModel, batch: PairBatch) -> Tensor:
    """Return a causal LM's last hidden states at the scored positions, `[N, D]`."""
    states: Tensor = model.base_model(
        input_ids=batch.token_ids,
        attention_mask=pair_mask(batch.kinds),
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state  # [B, T, D]
    return states.flatten(0, 1)[batch.sources]  # [N, D]
