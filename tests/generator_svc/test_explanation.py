"""Which preference changed a token: by the written-out sums, through engine and fake rewards."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generator_svc.decoding.candidates import top_candidates
from generator_svc.decoding.choice import RowParams, choose
from generator_svc.decoding.explanation import against_base, explain
from generator_svc.decoding.strategies import Reference
from generator_svc.engine.scorer import EncodedPreference, RewardContext
from generator_svc.engine.sequence import ChosenToken, GenerationParams
from svc_common.preference_prompt import ChatMessage
from tests.generator_svc.test_engine import BASE, NEVER, AlwaysAhead, running_engine

WISHES = (
    EncodedPreference("be kind", 1.5),
    EncodedPreference("rhyme", 0.5),
    EncodedPreference("be brief", 3.0),
)


def explained(
    text: str, reference: Reference = Reference.BACKBONE, **changes: object
) -> GenerationParams:
    chat = (ChatMessage("user", text),)
    context = RewardContext(chat, WISHES, reference, is_explained=True)
    return replace(BASE, reward_context=context, **changes)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_preferences=st.integers(1, 8),
    num_candidates=st.integers(1, 12),
    temperature=st.sampled_from([0.0, 0.7]),
    is_against_base=st.booleans(),
)
def test_the_parts_of_a_choice_sum_up_to_its_reward_and_the_largest_push_is_named(
    seed: int,
    num_preferences: int,
    num_candidates: int,
    temperature: float,
    is_against_base: bool,
) -> None:
    torch.manual_seed(seed)
    candidates = top_candidates(3 * torch.randn(1, 40), num_candidates)
    weights = torch.rand(num_preferences) * 9 + 0.01
    parts = torch.randn(num_preferences, num_candidates)
    rewards = (weights @ parts).unsqueeze(0)  # [1, K]
    base_weight = float(weights.sum()) if is_against_base else 0.0
    params = RowParams(0.5, temperature, 1.0, seed, 0, base_weight)
    choices = choose(candidates, rewards, [params])
    if is_against_base:
        parts = against_base(parts, candidates.logprobs[0])
    column, base = choices.columns[0], choices.base_columns[0]
    its = explain(parts, weights.tolist(), column, base)
    assert sum(its.rewards) == pytest.approx(choices.chosen_rewards[0], abs=1e-3)
    assert sum(its.base_rewards) == pytest.approx(float(choices.rewards[0, base]), abs=1e-3)
    pushes = [mine - theirs for mine, theirs in zip(its.rewards, its.base_rewards, strict=True)]
    if column == base:
        assert its.changed_by is None
        assert pushes == [0.0] * num_preferences
    else:
        assert its.changed_by is not None
        assert pushes[its.changed_by] == max(pushes) > 0  # without top_p somebody pushed


def test_of_equal_pushes_the_first_counts() -> None:
    its = explain(torch.tensor([[0.0, 1.0], [0.0, 2.0], [5.0, 0.0]]), [2.0, 1.0, 0.1], 1, 0)
    assert its.rewards == pytest.approx((2.0, 2.0, 0.0))
    assert its.base_rewards == pytest.approx((0.0, 0.0, 0.5))
    assert its.changed_by == 0


def check(token: ChosenToken) -> None:
    assert token.explanation is not None
    assert sum(token.explanation.rewards) == pytest.approx(token.reward, abs=2e-3)
    base = {token_id: reward for token_id, _, reward, _ in token.candidates()}[token.base_token_id]
    assert sum(token.explanation.base_rewards) == pytest.approx(base, abs=2e-3)
    assert (token.explanation.changed_by is not None) == token.is_changed


@pytest.mark.parametrize("reference", list(Reference))
@pytest.mark.parametrize("run_ahead", [NEVER, AlwaysAhead(is_allowed=True)], ids=["wait", "ahead"])
async def test_an_explained_answer_has_the_tokens_of_one_that_is_not(
    reference: Reference, run_ahead: AlwaysAhead
) -> None:
    """And a lost session, in the middle of it, costs no explanation."""
    plain = explained("hi", reference)
    assert plain.reward_context is not None
    plain = replace(plain, reward_context=replace(plain.reward_context, is_explained=False))
    async with running_engine(run_ahead=run_ahead) as harness:
        expected = await harness.write("hi", plain)
        assert all(token.explanation is None for token in expected)
        harness.scorer.loses_after = harness.scorer.num_messages + 3
        tokens = await harness.write("hi", explained("hi", reference))
    assert [token.token_id for token in tokens] == [token.token_id for token in expected]
    for token in tokens:
        check(token)
    assert any(token.is_changed for token in tokens)


async def test_only_those_who_asked_are_told(  # in one batch, of different K
) -> None:
    async with running_engine() as harness:
        jobs = [
            ("a", explained("a", top_k=7)),
            ("b", replace(BASE, top_k=12)),
            ("c", explained("c", temperature=0.8, seed=4)),
        ]
        sequences = [harness.sequence(*job) for job in jobs]
        for sequence in sequences:
            harness.engine.submit(sequence)
        answers = [[token async for token in sequence.tokens()] for sequence in sequences]
    for token in (*answers[0], *answers[2]):
        check(token)
    assert all(token.explanation is None for token in answers[1])
