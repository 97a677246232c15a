"""Pairs as token ids, exactly those that the services read and write."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from svc_common.errors import ServiceError
from svc_common.lm.loading import ModelFolderError
from svc_common.lm.tokenizer import Tokenizer, load_tokenizer
from svc_common.preference_prompt import ChatMessage, add_preference
from training.pair_file import Pair, PairFileError
from training.pairs import EncodedPair

_PROBE = "yes"


class PairEncoder:
    """The tokenizer of a model folder as the services use it.

    A reply is its bare text and then the token that ends a turn in the model's chat template.

    Args:
        folder: a transformers model folder.

    Raises:
        ModelFolderError: it has no tokenizer, or one without chat template or end of turn.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.tokenizer: Tokenizer = load_tokenizer(folder)
            self._bare = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ModelFolderError(f"model.base={folder}: tokenizer: {error}") from error
        if not self._bare.chat_template:
            raise ModelFolderError(f"model.base={folder}: must have a chat template, has none")
        self.end_id = self._end_of_turn(folder)
        pad = self._bare.pad_token_id
        self.pad_id = self.end_id if pad is None else int(pad)

    def prompt_ids(self, context: Sequence[ChatMessage]) -> list[int]:
        """Return the ids of a conversation, up to where the reply begins."""
        return self.tokenizer.encode_prompt(tuple(context))

    def reply_ids(self, reply: str) -> list[int]:
        """Return the ids of a reply and its end."""
        self.tokenizer.check_text("reply", reply)
        return [*self._bare(reply, add_special_tokens=False).input_ids, self.end_id]

    def encode(self, pair: Pair, preference: str | None = None) -> EncodedPair:
        """Return the ids of `pair`, its preference replaced by `preference` if one is given.

        Raises:
            PairFileError: the chat template refuses the context, or a text holds a control token.
        """
        try:
            self.tokenizer.check_text("preference", preference or pair.preference)
            return EncodedPair(
                self.prompt_ids(pair.context),
                self.prompt_ids(add_preference(pair.context, preference or pair.preference)),
                self.reply_ids(pair.chosen),
                self.reply_ids(pair.rejected),
            )
        except (ServiceError, ValueError) as error:
            raise PairFileError(f"{pair.where}: {error}") from error

    def _end_of_turn(self, folder: Path) -> int:
        """Return the first end token behind an assistant's turn in the chat template."""
        ends = self.tokenizer.end_of_turn_ids
        messages = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}]
        text = str(self._bare.apply_chat_template(messages, tokenize=False))
        tail = text[text.rindex(_PROBE) + len(_PROBE) :]
        ids: list[int] = self._bare(tail, add_special_tokens=False).input_ids
        found = [token_id for token_id in ids if token_id in ends]
        if not found and self._bare.eos_token_id is not None:
            found = [self._bare.eos_token_id]
        if not found:
            raise ModelFolderError(f"model.base={folder}: must have an end-of-turn token, has none")
        return found[0]


class PairTable(Sequence[EncodedPair]):
    """Many encoded pairs in two arrays.

    Args:
        ids: `[total]` int32, plain prompt, guided prompt, chosen and rejected of each pair in turn.
        lengths: `[N, 4]` int32, of those four.
        max_tokens: longest row that is kept.

    Attributes:
        numbers: which of the N pairs are kept, in order.
        lengths: `[kept, 4]`.
    """

    def __init__(self, ids: Tensor, lengths: Tensor, max_tokens: int) -> None:
        self._ids: Any = ids.numpy()
        self._ends = lengths.flatten().to(torch.int64).cumsum(0).tolist()  # [4 N]
        fits = lengths[:, 1:].sum(1) <= max_tokens
        self.numbers: list[int] = fits.nonzero().flatten().tolist()
        self.lengths = lengths[fits]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> EncodedPair:  # type: ignore[override]
        place = 4 * self.numbers[index]
        first = self._ends[place - 1] if place else 0
        ends = self._ends[place : place + 4]
        plain, guided, chosen, rejected = (self._ids[a:b] for a, b in pairwise([first, *ends]))
        return EncodedPair(plain, guided, chosen, rejected)

    def row_lengths(self, guided: bool) -> list[int]:
        """Return the length of each pair's row, with or without the stated preference."""
        prompt = self.lengths[:, 1 if guided else 0]
        sizes: list[int] = (prompt + self.lengths[:, 2] + self.lengths[:, 3]).tolist()
        return sizes


def pack(pairs: Sequence[EncodedPair]) -> dict[str, Tensor]:
    """Return the arrays of a `PairTable`."""
    parts = [(p.plain_prompt, p.guided_prompt, p.chosen, p.rejected) for p in pairs]
    ids = [token_id for part in parts for row in part for token_id in row]
    lengths = [[len(row) for row in part] for part in parts]
    return {
        "ids": torch.tensor(ids, dtype=torch.int32),
        "lengths": torch.tensor(lengths, dtype=torch.int32).reshape(-1, 4),
    }
