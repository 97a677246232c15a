"""Accuracies on pairs against log-probabilities worked out one token at a time."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.bootstrap import Array
from evaluation.pair_accuracy import (
    PairSet,
    accuracies,
    accuracy_table,
    make_pair_set,
    measure_pairs,
    shuffled,
    wins,
)
from evaluation.pair_scores import PROMPTED, PairScorer, PairScores
from svc_common.preference_prompt import ChatMessage
from tests.tiny_model import save_tiny_model, tiny_model
from training.backbone import Backbone
from training.pair_encoding import PairEncoder
from training.pair_file import Pair
from training.pairs import EncodedPair

BETAS = (0.0, 0.7, 1.0, 2.0)
ENCODED = [
    EncodedPair([1, 5, 6], [1, 9, 9, 5, 6], [7, 8, 2], [30, 2]),
    EncodedPair([1, 5], [1, 12, 5], [40, 2], [41, 42, 43, 44, 2]),
]


class Plain:
    """theta alone; guided or not."""

    def __init__(self, backbone: Backbone, *, guided: bool) -> None:
        self._backbone = backbone
        self.guided = guided

    def vectors(self, preferences: Sequence[str]) -> Tensor | None:
        return None

    def logits(self, hidden: Tensor, vectors: Tensor | None) -> Tensor:
        return self._backbone.logits(hidden)


class Scaled(Plain):
    """theta's hidden states times a number for each preference: its length."""

    def vectors(self, preferences: Sequence[str]) -> Tensor | None:
        return torch.tensor([[float(len(text))] for text in preferences])

    def logits(self, hidden: Tensor, vectors: Tensor | None) -> Tensor:
        assert vectors is not None
        return self._backbone.logits(hidden * vectors)


@pytest.fixture(scope="module")
def base() -> Backbone:
    return Backbone(tiny_model(seed=1))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def theta() -> Backbone:
    return Backbone(tiny_model(seed=2))  # type: ignore[arg-type]


@torch.no_grad()
def rows(backbone: Backbone, prompt: Sequence[int], reply: Sequence[int], scale: float) -> Tensor:
    """Return log-probabilities of the vocabulary before each token of the reply, `[T, V]`."""
    ids = torch.tensor([[*prompt, *reply]])
    hidden = backbone.model.base_model(input_ids=ids).last_hidden_state[0]
    logits = backbone.logits(hidden * scale).log_softmax(-1)
    return logits[len(prompt) - 1 : -1]


@pytest.mark.parametrize("name", ["guided", "plain", "scaled", PROMPTED])
def test_scores_are_those_of_each_reply_alone(name: str, base: Backbone, theta: Backbone) -> None:
    variants = {
        "guided": Plain(theta, guided=True),
        "plain": Plain(theta, guided=False),
        "scaled": Scaled(theta, guided=False),
    }
    preferences = ["ab", "abc"]
    scores = PairScorer(base, theta, variants, BETAS, pad_id=0).score(ENCODED, preferences)[name]
    model = base if name == PROMPTED else theta
    for i, pair in enumerate(ENCODED):
        for j, reply in enumerate((pair.chosen, pair.rejected)):
            scale = float(len(preferences[i])) if name == "scaled" else 1.0
            guided = name in ("guided", PROMPTED)
            ours = rows(base, pair.plain_prompt, reply, 1.0)
            others = rows(model, pair.prompt(guided), reply, scale)
            index = torch.tensor(reply)[:, None]
            reward = float((others - ours).gather(1, index).sum())
            assert scores.rewards[i, j] == pytest.approx(reward, abs=1e-3)
            assert scores.lengths[i, j] == len(reply)
            for beta in (0.0, 1.0) if name == PROMPTED else BETAS:
                mixed = ours + beta * (others - ours)
                score = float(mixed.gather(1, index).sum())
                policy = float(mixed.log_softmax(-1).gather(1, index).sum())
                assert scores.score(beta)[i, j] == pytest.approx(score, abs=1e-3)
                assert scores.policy(beta)[i, j] == pytest.approx(policy, abs=1e-3)


def made_pair(number: int, preference: str, *labels: str) -> Pair:
    context = (ChatMessage("user", f"Hi {number}"),)
    return Pair(context, preference, "yes.", "no no.", labels, None)


@pytest.fixture
def pairs() -> PairSet:
    known = [
        made_pair(0, "Short!", "brevity:short"),
        made_pair(0, "Shorter!", "brevity:short"),
        made_pair(1, "Long!", "brevity:long"),
        made_pair(2, "Long! Formal!", "brevity:long", "register:formal"),
    ]
    new = [made_pair(3, "Long! Calm!", "brevity:long", "excitement:calm")]
    return make_pair_set(known, new, {"Short!", "Long!", "Long! Formal!"}, num_resamples=50)


def test_pairs_are_grouped_by_what_was_seen(pairs: PairSet) -> None:
    groups = {name: np.flatnonzero(mask).tolist() for name, mask in pairs.groups.items()}
    assert groups == {
        "single": [0, 1, 2],
        "seen_phrasings": [0, 2],
        "unseen_phrasings": [1],
        "personas": [3],
        "unseen_personas": [4],
        "brevity:short": [0, 1],
        "brevity:long": [2],
    }
    assert pairs.rows.tolist() == [0, 0, 1, 2, 3]


def test_a_tie_counts_one_half() -> None:
    assert wins(np.array([[2.0, 1.0], [1.0, 1.0], [0.0, 1.0]])).tolist() == [1.0, 0.5, 0.0]


def test_accuracy_is_the_share_of_right_pairs_of_a_group(pairs: PairSet) -> None:
    values = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    found = accuracies(pairs, values)
    assert found["single"]["value"] == pytest.approx(2 / 3, abs=1e-3)
    assert found["brevity:short"] == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 2}
    assert found["personas"]["value"] == 0.5
    assert found["unseen_personas"]["value"] == 0.0


def test_sums_and_means_may_disagree(pairs: PairSet) -> None:
    base: Array = np.zeros((5, 2))
    theta = np.tile([[-4.0, -3.0]], (5, 1))
    lengths = np.tile([[8.0, 2.0]], (5, 1))
    table = accuracy_table(pairs, PairScores(base, theta, {1.0: base}, lengths))
    assert table["rm"]["sum"]["single"]["value"] == 0.0
    assert table["rm"]["mean"]["single"]["value"] == 1.0
    assert table["policy"]["1"]["sum"]["single"]["value"] == 0.0
    assert table["score"]["1"]["mean"]["single"]["value"] == 1.0


def test_the_control_gives_single_pairs_each_others_preferences(pairs: PairSet) -> None:
    control = shuffled(pairs)
    assert len(control.pairs) == 3
    assert sorted(p.preference for p in control.pairs) == ["Long!", "Short!", "Shorter!"]
    assert [p.preference for p in control.pairs] != [p.preference for p in pairs.pairs[:3]]
    assert [p.context for p in control.pairs] == [p.context for p in pairs.pairs[:3]]


def test_at_beta_one_the_policy_is_theta_and_at_zero_the_base(
    pairs: PairSet, base: Backbone, theta: Backbone, tmp_path_factory: pytest.TempPathFactory
) -> None:
    encoder = PairEncoder(save_tiny_model(tmp_path_factory.mktemp("model")))
    variants = {"prompt": Plain(theta, guided=True)}
    scorer = PairScorer(base, theta, variants, (0.0, 1.0), encoder.pad_id)
    result = measure_pairs(scorer, encoder, pairs, show_progress=False)
    assert set(result) == {"prompt", PROMPTED}
    assert result["prompt"]["policy"]["0"] == result[PROMPTED]["policy"]["0"]
    assert result["prompt"]["policy"]["1"] == result["prompt"]["score"]["1"]
    assert set(result["prompt"]["shuffled"]["rm"]["sum"]) == {"single"}
    assert result["prompt"]["rm"]["sum"]["unseen_personas"]["n"] == 1
