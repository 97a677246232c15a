"""Does the text still read like English? Judged by another LM, by repetition, by its ending."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from evaluation.bootstrap import Array, Figure, Resampler, figure, no_figure
from svc_common.preference_prompt import ChatMessage
from training.backbone import output_logits
from training.pair_encoding import PairEncoder

BATCH_TOKENS = 8192  # padded tokens of one judged batch
BLOCK = 10  # replies that distinct-n is counted over together


class Judge:
    """A language model of another seed that reads the plain conversation and the reply.

    Args:
        folder: a transformers model folder.
    """

    def __init__(self, folder: Path) -> None:
        self._encoder = PairEncoder(folder)
        self._model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        ).eval()

    def losses(
        self, contexts: Sequence[Sequence[ChatMessage]], replies: Sequence[str], label: str = ""
    ) -> Array:
        """Return the summed loss of each reply and its number of tokens, `[N, 2]`, in nats.

        The end of the reply is not judged, so that a cut-off reply is not punished twice.

        Args:
            label: name on the progress bar; none without it.
        """
        prompts = {id(context): self._encoder.prompt_ids(context) for context in contexts}
        rows = [
            (prompts[id(context)], self._encoder.reply_ids(reply)[:-1])
            for context, reply in zip(contexts, replies, strict=True)
        ]
        result = np.zeros((len(rows), 2))
        with tqdm(total=len(rows), desc=label, disable=not label, mininterval=5.0) as bar:
            for group in _by_length([len(prompt) + len(reply) for prompt, reply in rows]):
                result[group] = self._judge([rows[i] for i in group])
                bar.update(len(group))
        return result

    @torch.no_grad()
    def _judge(self, rows: Sequence[tuple[list[int], list[int]]]) -> Array:
        longest = max(len(prompt) + len(reply) for prompt, reply in rows)
        ids = torch.full((len(rows), longest), self._encoder.pad_id)  # [B, T]
        judged = torch.zeros((len(rows), longest), dtype=torch.bool)  # [B, T]
        for i, (prompt, reply) in enumerate(rows):
            end = len(prompt) + len(reply)
            ids[i, :end] = torch.tensor([*prompt, *reply])
            judged[i, len(prompt) : end] = True
        hidden = self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        scored = judged[:, 1:]
        logits = output_logits(self._model, hidden[:, :-1][scored])  # [N, V]
        losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:][scored], reduction="none")
        spread = torch.zeros(scored.shape)
        spread[scored] = losses
        return torch.stack([spread.sum(1), scored.sum(1).float()], dim=1).double().numpy()


def _by_length(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Yield numbers of rows of similar length, a batch at a time."""
    order = iter(sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True))
    for first in order:
        more = islice(order, max(0, BATCH_TOKENS // max(1, sizes[first]) - 1))
        yield [first, *more]


def distinct(columns: Sequence[Sequence[str | None]], length: int) -> Figure:
    """Return distinct-n: different n-grams of words over all n-grams, in blocks of ten replies.

    The share falls with the amount of text, so blocks of one size are compared; they are also what
    is resampled.

    Args:
        columns: the replies of each user, None where there is none.
        length: n.
    """
    shares = []
    for column in columns:
        texts = [text for text in column if text is not None]
        for start in range(0, len(texts), BLOCK):
            grams = [gram for text in texts[start : start + BLOCK] for gram in _grams(text, length)]
            if grams and (len(texts) - start >= BLOCK or start == 0):
                shares.append(len(set(grams)) / len(grams))
    if not shares:
        return no_figure()
    resampler = Resampler([str(i) for i in range(len(shares))])
    return figure(resampler.means(shares), len(shares))


def _grams(text: str, length: int) -> list[tuple[str, ...]]:
    words = text.lower().split()
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
