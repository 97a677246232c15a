from pathlib import Path

import pytest
import torch

from evaluation.cells import ends_properly
from evaluation.fluency import Judge, distinct
from svc_common.preference_prompt import ChatMessage
from tests.tiny_model import save_tiny_model, tiny_model
from training.pair_encoding import PairEncoder

CONTEXTS = [
    (ChatMessage("user", "Hi there, a table please."),),
    (ChatMessage("user", "Hi"), ChatMessage("assistant", "Yes?"), ChatMessage("user", "Go")),
]


@torch.no_grad()
def naive_loss(prompt: list[int], reply: list[int]) -> float:
    logits = tiny_model(seed=4)(torch.tensor([[*prompt, *reply]])).logits[0].log_softmax(-1)
    return -sum(float(logits[len(prompt) + i - 1, token]) for i, token in enumerate(reply))


def test_the_judge_reads_the_plain_conversation_and_scores_the_reply_alone(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, seed=4)
    contexts = [CONTEXTS[0], CONTEXTS[1], CONTEXTS[0]]
    replies = ["A table for two.", "Ok", ""]
    losses = Judge(folder).losses(contexts, replies)
    encoder = PairEncoder(folder)
    for row, context, reply in zip(losses, contexts, replies, strict=True):
        ids = encoder.reply_ids(reply)[:-1]
        assert row[1] == len(ids)
        assert row[0] == pytest.approx(naive_loss(encoder.prompt_ids(context), ids), abs=1e-3)


def test_distinct_n_is_the_share_of_different_sequences() -> None:
    assert distinct([["a b a b", None]], 1)["value"] == 0.5
    assert distinct([["a b a b"]], 2)["value"] == pytest.approx(2 / 3, abs=1e-3)
    assert distinct([["a"]], 2)["value"] is None


def test_distinct_n_compares_blocks_of_one_size() -> None:
    """Over all 40 replies together the share would be 1 in 40, and less the more there are."""
    assert distinct([["a"] * 40], 1)["value"] == 0.1
    assert distinct([["a"] * 45], 1) == distinct([["a"] * 40], 1)
    assert distinct([["a"] * 20, ["b"] * 20], 1)["n"] == 4


@pytest.mark.parametrize(
    ("text", "ended", "proper"),
    [
        ("Done.", True, True),
        ("Done!", True, True),
        ('"Done."', True, True),
        ("Done", True, False),
        ("Done,", True, False),
        ("Done.", False, False),
        ("", True, False),
    ],
)
def test_a_reply_ends_properly_with_its_mark_and_punctuation(
    text: str, ended: bool, proper: bool
) -> None:
    assert ends_properly(text, ended) is proper
