"""Turning conversations into token ids with one loss weight per token, and into batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor

from svc_common.preference_prompt import ChatMessage
from training.tokenizer import BOS, END, PAD, role_token

T = TypeVar("T")

ENCODE_CHUNK = 2000  # conversations tokenised at a time: their encodings take much memory
SORT_POOL = 2048  # conversations sorted by length at a time: little padding, well-mixed batches


@dataclass(frozen=True)
class Example:
    """One conversation: `weights[t]` is the loss weight of predicting `token_ids[t]`."""

    token_ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Batch:
    """Right-padded examples: `token_ids` int64 and `weights` float32, both [B, T]."""

    token_ids: Tensor
    weights: Tensor


class ChatEncoder:
    """The chat template on the bare tokenizer: `<|bos|>`, then `<|role|>content<|end|>` a turn."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bos = self.token_id(BOS)
        self._end = self.token_id(END)
        self.pad_id = self.token_id(PAD)

    def token_id(self, token: str) -> int:
        """Return the id of a special token."""
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise KeyError(token)
        return int(token_id)

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of plain text."""
        return list(self._tokenizer.encode(text).ids)

    def prompt_ids(self, context: Sequence[ChatMessage]) -> list[int]:
        """Return the ids of a context up to and with the marker that opens the reply."""
        ids = [self._bos]
        for message in context:
            ids += [self._role(message.role), *self.encode_text(message.content), self._end]
        return [*ids, self._role("assistant")]

    def reply_ids(self, reply: str) -> list[int]:
        """Return the ids of a reply with its end mark."""
        return [*self.encode_text(reply), self._end]

    def encode_all(
        self, windows: Sequence[Sequence[ChatMessage]], user_weight: float
    ) -> list[Example]:
        """Return the examples of conversations; role markers carry no loss."""
        examples: list[Example] = []
        for start in range(0, len(windows), ENCODE_CHUNK):
            examples += self._encode_chunk(windows[start : start + ENCODE_CHUNK], user_weight)
        return examples

    def _encode_chunk(
        self, windows: Sequence[Sequence[ChatMessage]], user_weight: float
    ) -> list[Example]:
        texts = [message.content for window in windows for message in window]
        encoded = iter(self._tokenizer.encode_batch_fast(texts))
        examples = []
        for window in windows:
            ids, weights = [self._bos], [0.0]
            for message in window:
                content = next(encoded).ids
                weight = 1.0 if message.role == "assistant" else user_weight
                ids += [self._role(message.role), *content, self._end]
                weights += [0.0, *[weight] * (len(content) + 1)]
            examples.append(Example(ids, weights))
        return examples

    def _role(self, role: str) -> int:
        return self.token_id(role_token(role))


def pad_batch(examples: Sequence[Example], pad_id: int) -> Batch:
    """Return `examples` right-padded to the longest; padding has weight 0."""
    longest = max(len(example.token_ids) for example in examples)
    token_ids = torch.full((len(examples), longest), pad_id, dtype=torch.int64)
    weights = torch.zeros((len(examples), longest))
    for row, example in enumerate(examples):
        token_ids[row, : len(example.token_ids)] = torch.tensor(example.token_ids)
        weights[row, : len(example.weights)] = torch.tensor(example.weights)
    return Batch(token_ids, weights)


def group_by_length(
    items: Sequence[T],
    num_tokens: Callable[[T], int],
    tokens_per_batch: int,
    rng: Random,
    max_items: int = 0,
) -> list[list[T]]:
    """Return shuffled groups of similar length, each at most `tokens_per_batch` when padded.

    A single item longer than the budget makes a group of its own.

    Args:
        max_items: most items of a group; 0: no limit.
    """
    order = list(items)
    rng.shuffle(order)
    groups: list[list[T]] = []
    for start in range(0, len(order), SORT_POOL):
        group: list[T] = []
        for item in sorted(order[start : start + SORT_POOL], key=num_tokens):
            is_full = num_tokens(item) * (len(group) + 1) > tokens_per_batch
            if group and (is_full or len(group) == max_items):
                groups.append(group)
                group = []
            group.append(item)
        groups.append(group)
    rng.shuffle(groups)
    return groups


def endless_groups(
    epoch_items: Callable[[int], Sequence[T]],
    num_tokens: Callable[[T], int],
    tokens_per_batch: int,
    rng: Random,
) -> Iterator[list[T]]:
    """Yield groups of epoch 0, 1, 2 ... without end."""
    epoch = 0
    while True:
        yield from group_by_length(epoch_items(epoch), num_tokens, tokens_per_batch, rng)
        epoch += 1
