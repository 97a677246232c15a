"""What a caller is told of which preference changed which token."""

import pytest

from pad_client import Completion, GeneratorClient, InvalidRequestError, Message, Preference

CHAT = [Message("user", "Can you find me a hotel in Paris for three nights?")]
WISHES = [Preference("Be excited!", 1.0), Preference("Use formal language.", 0.5)]


@pytest.fixture(scope="module")
def explained(client: GeneratorClient) -> Completion:
    return client.explain(messages=CHAT, preferences=WISHES, max_tokens=24, beta=1.5)


def test_the_account_of_an_answer_adds_up(explained: Completion) -> None:
    its, summary = explained.summary.explanation, explained.summary
    assert its is not None
    assert its.num_unexplained_tokens == 0
    assert [(each.text, each.weight) for each in its.preferences] == [
        (each.text, each.weight) for each in WISHES
    ]
    changed = [token for token in explained.tokens if token.changed]
    assert changed
    counts = [each.num_changed_tokens for each in its.preferences]
    assert sum(counts) == summary.num_changed_tokens == len(changed)
    for place, each in enumerate(its.preferences):
        told = [token.explanation for token in explained.tokens]
        assert all(told)
        of_it = [(t.rewards[place], t.base_rewards[place]) for t in told if t is not None]
        assert each.reward == pytest.approx(sum(mine for mine, _ in of_it))
        pushed = sum(1.5 * (mine - base) for mine, base in of_it)
        assert each.contribution == pytest.approx(pushed, abs=1e-6)
        by_it = [t for t in told if t is not None and t.changed_by == place]
        assert each.num_changed_tokens == len(by_it)


def test_each_tokens_parts_sum_up_to_its_reward(explained: Completion) -> None:
    for token in explained.tokens:
        assert token.explanation is not None
        assert sum(token.explanation.rewards) == pytest.approx(token.reward, abs=1e-3)
        assert (token.explanation.changed_by is None) != token.changed


def test_a_single_wish_is_held_to_account_for_all_changes(client: GeneratorClient) -> None:
    answer = client.explain(messages=CHAT, preferences=["Be excited!"], max_tokens=24)
    assert answer.summary.explanation is not None
    (only,) = answer.summary.explanation.preferences
    assert only.num_changed_tokens == answer.summary.num_changed_tokens > 0
    assert only.contribution > 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strategy": "pad-released"},
        {"preference_in_base_prompt": True},
        {"temperature": 0.8, "seed": 5},
        {"fallback": "unguided", "top_k": 3},
    ],
    ids=str,
)
def test_an_explained_answer_is_the_one_that_is_not(
    client: GeneratorClient, options: dict[str, object]
) -> None:
    asked = {"messages": CHAT, "preferences": WISHES, "max_tokens": 16, **options}
    plain = client.complete(**asked)  # type: ignore[arg-type]
    told = client.complete(**asked, detail="explanation")  # type: ignore[arg-type]
    assert [t.token_id for t in told.tokens] == [t.token_id for t in plain.tokens]
    assert plain.summary.explanation is None
    assert all(token.explanation is None for token in plain.tokens)
    for token in told.tokens:
        assert token.explanation is not None
        assert sum(token.explanation.rewards) == pytest.approx(token.reward, abs=1e-3)


def test_a_stored_profile_is_explained_by_its_revision(client: GeneratorClient) -> None:
    client.put_profile("told", ["Be brief."])
    second = client.put_profile("told", WISHES, beta=0.0)
    answer = client.explain(messages=CHAT, user_id="told", max_tokens=4)
    assert answer.summary.profile_revision == second.revision
    its = answer.summary.explanation
    assert its is not None
    assert [each.text for each in its.preferences] == [each.text for each in WISHES]
    # With beta 0 nobody was asked, and nothing was changed.
    assert [(e.num_changed_tokens, e.contribution, e.reward) for e in its.preferences] == [
        (0, 0.0, 0.0)
    ] * 2
    assert its.num_unexplained_tokens == 0


@pytest.mark.parametrize("strategy", ["base", "prompt", "best-of-n"])
def test_what_guides_no_tokens_cannot_be_explained(client: GeneratorClient, strategy: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"detail: explanation .* got {strategy}"):
        client.explain(messages=CHAT, preferences=WISHES, strategy=strategy)


def test_the_call_takes_no_other_detail(client: GeneratorClient) -> None:
    with pytest.raises(InvalidRequestError, match=r"generation\.detail: must be unset or"):
        client.explain(messages=CHAT, preferences=WISHES, detail="candidates")


def test_as_many_preferences_as_there_may_be_are_explained(
    client: GeneratorClient,
) -> None:
    wishes = [f"Be kind, {number}." for number in range(8)]
    answer = client.explain(messages=CHAT, preferences=wishes, max_tokens=6, top_k=17)
    assert answer.summary.explanation is not None
    assert len(answer.summary.explanation.preferences) == 8
