"""Preference pairs as batches in which chosen and rejected reply share one prompt.

Both replies follow the prompt in one row, `prompt | chosen | rejected`. The rejected reply starts
again at the position after the prompt and cannot see the chosen one, so each reply's
log-probability is what it would be alone, for about 60 % of the tokens of two separate rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svc_common.preference_prompt import ChatMessage, add_preference
from training.data import PreferencePair
from training.encoding import ChatEncoder

MASKED = -1e9  # additive attention mask; finite, so that it survives bfloat16
PROMPT, CHOSEN, REJECTED = 0, 1, 2


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of one pair; `reference` are log p_ref of both replies, in nats."""

    plain_prompt: list[int]
    guided_prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    reference: tuple[float, float] = (0.0, 0.0)

    def row(self, guided: bool) -> tuple[list[int], list[int], list[int]]:
        """Return prompt, chosen and rejected ids, with or without the stated preference."""
        return (self.guided_prompt if guided else self.plain_prompt), self.chosen, self.rejected

    def num_tokens(self) -> int:
        """Return the length of the row with the stated preference."""
        return len(self.guided_prompt) + len(self.chosen) + len(self.rejected)


@dataclass(frozen=True)
class PairBatch:
    """Rows `prompt | chosen | rejected`, right-padded, and where to read the replies' tokens.

    The N scored tokens are those of all replies: token `targets[n]` is predicted at flat position
    `sources[n]` and belongs to reply `replies[n]` = 2 * row + (0 chosen, 1 rejected).
    """

    token_ids: Tensor  # [B, T] int64
    positions: Tensor  # [B, T] int64
    mask: Tensor  # [B, 1, T, T] float32, additive
    sources: Tensor  # [N] int64, into B * T
    targets: Tensor  # [N] int64
    replies: Tensor  # [N] int64, into 2 * B
    lengths: Tensor  # [B, 2] float32, tokens of each reply


def encode_pair(
    encoder: ChatEncoder, pair: PreferencePair, preference: str | None = None
) -> EncodedPair:
    """Return the token ids of `pair`, its preference replaced by `preference` if one is given."""
    context: Sequence[ChatMessage] = pair.context
    return EncodedPair(
        encoder.prompt_ids(context),
        encoder.prompt_ids(add_preference(context, preference or pair.preference)),
        encoder.reply_ids(pair.chosen),
        encoder.reply_ids(pair.rejected),
    )


def make_pair_batch(pairs: Sequence[EncodedPair], pad_id: int, guided: bool) -> PairBatch:
    """Return one batch; `guided` puts the stated preference into the prompts."""
    rows = [pair.row(guided) for pair in pairs]
    longest = max(sum(map(len, row)) for row in rows)
    token_ids = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
    positions = torch.zeros((len(rows), longest), dtype=torch.int64)
    kinds = torch.zeros((len(rows), longest), dtype=torch.int64)
    sources: list[int] = []
    targets: list[int] = []
    replies: list[int] = []
    for index, (prompt, chosen, rejected) in enumerate(rows):
        start = len(prompt)
        split, end = start + len(chosen), start + len(chosen) + len(rejected)
        token_ids[index, :end] = torch.tensor([*prompt, *chosen, *rejected])
        positions[index, :split] = torch.arange(split)
        positions[index, split:end] = torch.arange(start, start + len(rejected))
        kinds[index, start:split] = CHOSEN
        kinds[index, split:end] = REJECTED
        offset = index * longest
        last = offset + start - 1  # both replies' first tokens follow the prompt
        sources += [last, *range(offset + start, offset + split - 1)]
        sources += [last, *range(offset + split, offset + end - 1)]
        targets += [*chosen, *rejected]
        replies += [2 * index] * len(chosen) + [2 * index + 1] * len(rejected)
    return PairBatch(
        token_ids,
        positions,
        pair_mask(kinds),
        torch.tensor(sources),
        torch.tensor(targets),
        torch.tensor(replies),
        torch.tensor([[float(len(chosen)), float(len(rejected))] for _, chosen, rejected in rows]),
    )


def pair_mask(kinds: Tensor) -> Tensor:
    """Return the additive causal mask in which rejected tokens do not see chosen ones.

    Args:
        kinds: `[B, T]`, PROMPT, CHOSEN or REJECTED; padding stands last and is never seen.
    """
    num_tokens = kinds.shape[1]
    causal = torch.ones((num_tokens, num_tokens), dtype=torch.bool).tril()  # [T, T]
    crossing = (kinds == REJECTED).unsqueeze(2) & (kinds == CHOSEN).unsqueeze(1)  # [B, T, T]
    allowed = causal & ~crossing  # [B, T, T]
    return torch.where(allowed, 0.0, MASKED).unsqueeze(1)  # [B, 1, T, T]
