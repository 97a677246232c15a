"""Best-of-n draws as the service draws, scores whole replies, and keeps the best."""

import math
from pathlib import Path

import pytest
import torch

from evaluation.best_of_n import TEMPERATURE, best_of, score, seed_of, theta_scores
from evaluation.decoding import Decoder
from evaluation.jobs import Guide, Job, ThetaRow, Written
from evaluation.models import LanguageModel, load_language_model, reward_variants
from evaluation.reader import PromptStore, Read
from svc_common.preference_prompt import ChatMessage, add_preference
from tests.tiny_model import save_tiny_model

PROMPT = [ChatMessage("user", "Hello.")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_language_model(save_tiny_model(tmp_path_factory.mktemp("base"), seed=1))


@pytest.fixture(scope="module")
def guide(base: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Guide:
    variant = reward_variants(save_tiny_model(tmp_path_factory.mktemp("theta"), seed=2))["prompt"]
    rows = (ThetaRow(read(variant.theta, add_preference(PROMPT, "Be brief.")), 1.0),)
    return Guide(variant, rows, read(base, PROMPT), 0.0)


def read(model: LanguageModel, messages: list[ChatMessage]) -> Read:
    return Read(model, tuple(model.tokenizer.encode_prompt(tuple(messages))))


def draw(base: LanguageModel, count: int) -> list[Written]:
    plain = read(base, PROMPT)
    jobs = [Job(plain, plain, 10, None, TEMPERATURE, seed_of("e1", i)) for i in range(count)]
    written = dict(Decoder(PromptStore(), max_new_tokens=8).write(jobs))
    return [written[i] for i in range(count)]


@torch.no_grad()
def naive_log_prob(read: Read, reply: list[int]) -> float:
    ids = torch.tensor([[*read.token_ids, *reply]])
    logits = read.model.model(input_ids=ids).logits[0, len(read.token_ids) - 1 : -1]
    return float(logits.log_softmax(-1)[torch.arange(len(reply)), torch.tensor(reply)].sum())


def test_replies_in_one_row_score_as_each_would_alone(base: LanguageModel, guide: Guide) -> None:
    replies = [sample.token_ids for sample in draw(base, 5)]
    (theta,) = theta_scores(guide, replies)
    expected = [naive_log_prob(guide.rows[0].read, reply) for reply in replies]
    assert theta.log_probs == pytest.approx(expected, abs=1e-3)
    assert sum(theta.seconds) > 0


def test_the_best_has_the_highest_reward(base: LanguageModel, guide: Guide) -> None:
    samples = draw(base, 6)
    replies = [sample.token_ids for sample in samples]
    assert guide.reference is not None
    reference = score(guide.reference, base.logits, replies)
    rewards = [
        naive_log_prob(guide.rows[0].read, reply) - naive_log_prob(guide.reference, reply)
        for reply in replies
    ]
    best = best_of(6, samples, guide, theta_scores(guide, replies), reference)
    assert best.token_ids == replies[max(range(6), key=rewards.__getitem__)]
    assert best.kl_per_token == pytest.approx((math.log(6) - 5 / 6) / len(best.token_ids))
    steps = sum(len(reply) - 1 for reply in replies)
    prompts = 2 * len(guide.reference.token_ids) + len(guide.rows[0].read.token_ids)
    assert best.model_tokens == prompts + 3 * steps


def test_best_of_1_is_the_sample(base: LanguageModel, guide: Guide) -> None:
    samples = draw(base, 3)
    replies = [sample.token_ids for sample in samples]
    assert guide.reference is not None
    reference = score(guide.reference, base.logits, replies)
    best = best_of(1, samples, guide, theta_scores(guide, replies), reference)
    assert best.token_ids == samples[0].token_ids
    assert best.kl_per_token == 0


def test_samples_differ_and_come_again(base: LanguageModel) -> None:
    replies = [sample.token_ids for sample in draw(base, 4)]
    assert len({*map(tuple, replies)}) > 1
    assert [sample.token_ids for sample in draw(base, 4)] == replies
    assert [sample.token_ids for sample in draw(base, 2)] == replies[:2]


def test_seeds_of_a_prompt_follow_each_other(tmp_path: Path) -> None:
    assert seed_of("e1", 3) == seed_of("e1", 0) + 3
    assert seed_of("e1", 0) != seed_of("e2", 0)
