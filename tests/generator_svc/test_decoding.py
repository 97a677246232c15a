"""Decoding against references written out here, and by its properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generator_svc.decoding.candidates import (
    CandidateRow,
    Candidates,
    gather_candidates,
    top_candidates,
)
from generator_svc.decoding.choice import RowParams, choose
from generator_svc.decoding.guidance import guide, subtract_base
from generator_svc.decoding.sampling import gumbel_noise, pick
from generator_svc.decoding.strategies import STRATEGIES

V, K = 50, 10


def random_candidates(num_rows: int, seed: int = 0) -> Candidates:
    torch.manual_seed(seed)
    return top_candidates(3 * torch.randn(num_rows, V), K)


def test_candidates_are_the_k_likeliest_with_full_vocabulary_logprobs() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, V)
    best = top_candidates(logits, K)
    for row in range(3):
        total = math.log(sum(math.exp(x) for x in logits[row].tolist()))
        expected = sorted((x - total for x in logits[row].tolist()), reverse=True)[:K]
        assert best.logprobs[row].tolist() == pytest.approx(expected, abs=1e-5)
        assert logits[row][best.token_ids[row]].tolist() == sorted(logits[row], reverse=True)[:K]


@pytest.mark.parametrize("num_tokens", [6144, 6151, 4096])
@pytest.mark.parametrize("num_candidates", [1, 10, 24, 40])
def test_candidates_are_the_k_likeliest_of_a_large_vocabulary(
    num_tokens: int, num_candidates: int
) -> None:
    torch.manual_seed(num_tokens)
    logits = 3 * torch.randn(9, num_tokens)
    logits[0, -num_candidates:] += 40  # all behind one another, at the very end
    logits[1, 64:80] += 40  # many in one block
    logits[2, 1] = -torch.inf
    best = top_candidates(logits, num_candidates)
    wanted = torch.log_softmax(logits, dim=-1).sort(dim=-1, descending=True)
    assert torch.equal(best.logprobs, wanted.values[:, :num_candidates])
    assert torch.equal(best.token_ids, wanted.indices[:, :num_candidates])


def test_equal_logits_of_a_large_vocabulary_give_each_token_once() -> None:
    logits = torch.zeros(9, 6144)
    logits[:, ::3] = 1.0
    best = top_candidates(logits, 10)
    assert torch.equal(best.logprobs, best.logprobs[:, :1].expand(-1, 10))
    assert (best.token_ids % 3 == 0).all()
    assert [len(set(row)) for row in best.token_ids.tolist()] == [10] * 9


def test_guidance_follows_equation_13() -> None:
    logprobs, rewards = torch.tensor([[-1.0, -2.0]]), torch.tensor([[0.5, 3.0]])
    scores = guide(logprobs, rewards, torch.tensor([0.8]))
    assert scores[0].tolist() == pytest.approx([-1 + 0.4, -2 + 2.4])


def test_released_rule_equals_logit_interpolation() -> None:
    """score = (1 - beta) l + beta r + const, for one preference of weight 1."""
    candidates = random_candidates(4)
    theta = torch.log_softmax(torch.randn(4, K), -1)
    beta = torch.tensor([0.5, 0.8, 1.0, 1.5])
    rewards = subtract_base(theta, candidates.logprobs, torch.ones(4))
    scores = guide(candidates.logprobs, rewards, beta)
    naive = (1 - beta[:, None]) * candidates.logprobs + beta[:, None] * theta
    difference = scores - naive
    torch.testing.assert_close(difference, difference[:, :1].expand(-1, K), atol=1e-4, rtol=0)


def test_beta_zero_is_base_decoding_for_every_temperature() -> None:
    candidates = random_candidates(6)
    rewards = torch.randn(6, K)
    rows = [
        RowParams(beta=0.0, temperature=t, top_p=0.9, seed=5, step=3)
        for t in (0, 0.3, 0.7, 1, 2, 5)
    ]
    choices = choose(candidates, rewards, rows)
    assert choices.columns == choices.base_columns


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 10_000), st.floats(0.1, 5), st.floats(0.05, 1))
def test_a_row_draws_the_same_whatever_else_is_in_the_batch(
    seed: int, step: int, temperature: float, top_p: float
) -> None:
    candidates = random_candidates(5)
    rewards = torch.randn(5, K, generator=torch.Generator().manual_seed(1))
    row = RowParams(beta=1.0, temperature=temperature, top_p=top_p, seed=seed, step=step)
    other = RowParams(beta=2.0, temperature=0.5, top_p=0.5, seed=1, step=1)
    alone = choose(
        Candidates(candidates.token_ids[2:3], candidates.logprobs[2:3]), rewards[2:3], [row]
    )
    together = choose(candidates, rewards, [other, other, row, other, other])
    assert (alone.columns[0], alone.base_columns[0]) == (
        together.columns[2],
        together.base_columns[2],
    )
    assert torch.equal(alone.rewards[0], together.rewards[2])
    assert torch.equal(alone.scores[0], together.scores[2])


def test_sampling_draws_from_the_softmax_of_the_scores() -> None:
    scores = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    num_draws, temperature = 20_000, 0.7
    noise = gumbel_noise(
        torch.arange(num_draws),
        torch.zeros(num_draws, dtype=torch.int64),
        torch.arange(4).expand(num_draws, 4),
    )
    full = torch.full((num_draws,), temperature)
    picked = pick(scores.expand(num_draws, 4), noise, full, torch.ones(num_draws))
    shares = torch.bincount(picked, minlength=4) / num_draws
    torch.testing.assert_close(shares, torch.softmax(scores / temperature, -1), atol=0.015, rtol=0)


def test_top_p_keeps_the_likeliest_that_together_reach_it() -> None:
    scores = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).expand(5000, 4)
    noise = gumbel_noise(
        torch.arange(5000), torch.zeros(5000, dtype=torch.int64), torch.arange(4).expand(5000, 4)
    )
    picked = pick(scores, noise, torch.ones(5000), torch.full((5000,), 0.79))
    assert set(picked.tolist()) == {0, 1}
    tiny = pick(scores, noise, torch.ones(5000), torch.full((5000,), 1e-9))
    assert set(tiny.tolist()) == {0}


def test_rows_of_different_k_choose_among_their_own() -> None:
    torch.manual_seed(2)
    wide, narrow = random_candidates(1), top_candidates(torch.randn(1, V), 3)
    stacked = gather_candidates([CandidateRow(wide, 0, K), CandidateRow(narrow, 0, 3)])
    rewards = torch.zeros(2, K)
    rewards[1, 3:] = 100.0  # padding must not win
    params = [
        RowParams(beta=1.0, temperature=1.0, top_p=1.0, seed=s, step=0, base_weight=1.0)
        for s in (1, 2)
    ]
    choices = choose(stacked, rewards, params)
    assert choices.columns[1] < 3
    alone = choose(Candidates(narrow.token_ids, narrow.logprobs), torch.zeros(1, 3), params[1:])
    torch.testing.assert_close(alone.rewards[0], choices.rewards[1, :3])


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 1.0])
def test_candidates_that_are_equally_likely_are_no_matter_of_the_batch(
    temperature: float, top_p: float
) -> None:
    """Once a sort that was wider than 16 ordered them anew, and the nucleus held others."""
    tied = Candidates(torch.arange(15).unsqueeze(0), torch.full((1, 15), -4.0))
    wide = top_candidates(torch.randn(1, V, generator=torch.Generator().manual_seed(3)), 30)
    rows = [
        RowParams(beta=1.0, temperature=temperature, top_p=top_p, seed=seed, step=0)
        for seed in range(20)
    ]
    sampled = RowParams(beta=1.0, temperature=1.0, top_p=0.9, seed=1, step=0)
    alone = [choose(tied, torch.zeros(1, 15), [row]).columns[0] for row in rows]
    block = gather_candidates(
        [*(CandidateRow(tied, 0, 15) for _ in rows), CandidateRow(wide, 0, 30)]
    )
    together = choose(block, torch.zeros(len(rows) + 1, 30), [*rows, sampled])
    assert together.columns[:-1] == together.base_columns[:-1] == alone


def test_rows_of_one_block_are_cut_to_their_own_k_and_may_be_in_any_order() -> None:
    block = random_candidates(3)
    whole = gather_candidates([CandidateRow(block, i, K) for i in range(3)])
    assert torch.equal(whole.token_ids, block.token_ids)
    mixed = gather_candidates([CandidateRow(block, 2, 4), CandidateRow(block, 0, 2)])
    assert torch.equal(mixed.token_ids[0], block.token_ids[2, :4])
    assert torch.equal(mixed.logprobs[1, :2], block.logprobs[0, :2])
    cut = gather_candidates([CandidateRow(block, i, k) for i, k in enumerate((K, 3, 1))])
    for row, k in zip(cut.logprobs, (K, 3, 1), strict=True):
        assert torch.isfinite(row[:k]).all()
        assert (row[k:] == -torch.inf).all()


def test_the_table_says_which_strategies_use_preferences() -> None:
    assert [s.name for s in STRATEGIES.values() if not s.needs_preferences] == ["base"]
    assert [s.name for s in STRATEGIES.values() if s.guides_steps] == ["pad", "pad-released"]
