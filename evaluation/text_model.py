"""A logistic model over words and word pairs: which of two kinds a sentence or reply is."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)*|\d+")
MIN_COUNT = 5  # texts that a word or word pair must be in
MAX_TERMS = 40_000
L2 = 1e-4  # on the weights, per text
STEPS = 60


def terms(text: str) -> list[str]:
    """Return the words and adjacent word pairs of `text`; numbers are all alike, marks are gone."""
    words = ["0" if token.isdigit() else token for token in TOKEN.findall(_lowered(text))]
    return words + [f"{a} {b}" for a, b in zip(["<", *words], [*words, ">"], strict=True)]


def _lowered(text: str) -> str:
    return text.lower().replace("\u2019", "'")


class TextModel:
    """Log-odds that a text is of the positive kind, at equal shares of both kinds."""

    def __init__(self, weights: dict[str, float], bias: float) -> None:
        self._weights = weights
        self._bias = bias

    def log_odds(self, text: str) -> float:
        """Return the log-odds of `text`; a term counts once."""
        return self._bias + sum(self._weights.get(term, 0.0) for term in set(terms(text)))

    def save(self, path: Path) -> None:
        """Write the weights as JSON."""
        path.write_text(json.dumps({"bias": self._bias, "weights": self._weights}))

    @classmethod
    def load(cls, path: Path) -> "TextModel":
        """Read what `save` wrote."""
        saved = json.loads(path.read_text(encoding="utf-8"))
        return cls(saved["weights"], saved["bias"])


def fit_text_model(positive: Sequence[str], negative: Sequence[str]) -> TextModel:
    """Fit on two kinds of texts, each kind with half of the total weight; nothing is random.

    Raises:
        ValueError: one kind has no texts.
    """
    if not positive or not negative:
        raise ValueError(f"texts: both kinds are needed, got {len(positive)} and {len(negative)}")
    bags = [sorted(set(terms(text))) for text in [*positive, *negative]]
    counts = Counter(term for bag in bags for term in bag)
    common = sorted((-count, term) for term, count in counts.items() if count >= MIN_COUNT)
    index = {term: i for i, (_, term) in enumerate(common[:MAX_TERMS])}
    if not index:
        raise ValueError(f"texts: no word stands in {MIN_COUNT} of {len(bags)} texts")
    labels = torch.tensor([1.0] * len(positive) + [0.0] * len(negative))  # [N]
    shares = torch.where(labels == 1.0, 0.5 / len(positive), 0.5 / len(negative))  # [N]
    weights, bias = _minimise(
        [[index[t] for t in bag if t in index] for bag in bags], labels, shares
    )
    kept = {term: round(float(weights[i]), 4) for term, i in index.items()}
    return TextModel(kept, round(float(bias), 4))


def _minimise(bags: list[list[int]], labels: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights `[V]` and bias of the penalised logistic loss, by L-BFGS from zero."""
    flat = torch.tensor([term for bag in bags for term in bag])
    lengths = torch.tensor([0, *(len(bag) for bag in bags)])
    offsets = lengths.cumsum(0)[:-1]  # [N]
    weights = torch.zeros((int(flat.max()) + 1, 1), requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = functional.embedding_bag(flat, weights, offsets, mode="sum")[:, 0] + bias  # [N]
        losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        loss = (losses * shares).sum() + L2 * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()[:, 0], bias.detach()
