"""The checker finds each kind of broken promise in a history that was spoilt by hand."""

from collections.abc import Callable
from dataclasses import replace

import grpc
import pytest
import torch

from pad.v1 import generator_pb2
from tests.faults.checker import Checker, allowed_statuses
from tests.faults.history import History
from tests.faults.models import save_tiny_folders
from tests.faults.recompute import Recompute
from tests.faults.scenario import Ask, Fault, Scenario

ASK = Ask(
    strategy="pad",
    text="Tell me of the sea.",
    preferences=(("Be brief.", 1.0),),
    user_id="",
    beta=1.0,
    top_k=4,
    temperature=0.0,
    seed=1,
    max_tokens=5,
    falls_back=False,
    ends_turn=False,
)
ONE = Scenario(0, (ASK,), (Fault(0.5, "process", 0, "kill"),))


@pytest.fixture(scope="module")
def recompute(tmp_path_factory: pytest.TempPathFactory) -> Recompute:
    return Recompute(save_tiny_folders(tmp_path_factory.mktemp("models")))


@pytest.fixture
def checker(recompute: Recompute) -> Checker:
    return Checker(recompute, {"a": "version-a", "b": "version-b"})


def right(recompute: Recompute) -> History:
    """Return the history of an answer as it must be, written by full forwards."""
    history = History(ASK, status=grpc.StatusCode.OK)
    answer: list[int] = []
    num_changed = 0
    for index in range(ASK.max_tokens):
        padded = [*answer, 0]  # what stands last is not read
        logprobs = recompute.logprobs(ASK, padded)[-1]
        ids = logprobs.topk(ASK.top_k).indices.unsqueeze(0).expand(len(padded), -1)
        rewards = recompute.rewards(ASK, padded, ids, "a")[-1]
        scores = logprobs[ids[-1]] + rewards
        best = int(scores.argmax())
        token = generator_pb2.Token(
            index=index,
            token_id=int(ids[-1][best]),
            guided=True,
            changed=best != 0,
            reward=float(rewards[best]),
        )
        for i, token_id in enumerate(ids[-1].tolist()):
            token.candidates.add(
                token_id=token_id,
                logprob=float(logprobs[token_id]),
                reward=float(rewards[i]),
                score=float(scores[i]),
            )
        num_changed += token.changed
        answer.append(token.token_id)
        history.messages.append(generator_pb2.GenerateResponse(token=token))
    uses = [generator_pb2.RewardModelUse(version="version-a", num_guided_tokens=5)]
    summary = generator_pb2.Summary(
        num_tokens=5,
        num_guided_tokens=5,
        num_changed_tokens=num_changed,
        reward_models=uses,
        seed=1,
    )
    history.messages.append(generator_pb2.GenerateResponse(summary=summary))
    return history


def skip_a_token(history: History) -> None:
    del history.messages[2]


def say_it_twice(history: History) -> None:
    history.messages.append(history.messages[-1])


def end_without_summary(history: History) -> None:
    history.messages.pop()


def go_on_behind_the_summary(history: History) -> None:
    history.messages.append(history.messages[0])


def take_rewards_of_another_step(history: History) -> None:
    one, two = history.messages[1].token, history.messages[2].token
    for mine, its in zip(one.candidates, two.candidates, strict=True):
        mine.reward, its.reward = its.reward, mine.reward


def take_another_token(history: History) -> None:
    token = history.messages[4].token
    worst = min(token.candidates, key=lambda candidate: candidate.score)
    token.token_id = worst.token_id


def name_another_model(history: History) -> None:
    history.messages[-1].summary.reward_models[0].version = "version-b"


def break_off(history: History) -> None:
    history.messages.pop()
    history.status = grpc.StatusCode.UNAVAILABLE


def fall_back_unasked(history: History) -> None:
    history.messages[-1].summary.num_fallback_tokens = 1


SPOILERS: list[tuple[Callable[[History], None], str]] = [
    (skip_a_token, "indices are"),
    (say_it_twice, "with 2 summaries"),
    (end_without_summary, "with 0 summaries"),
    (go_on_behind_the_summary, "the last message must be the one"),
    (take_rewards_of_another_step, "rewards of model a of step"),
    (take_another_token, "the best score has"),
    (name_another_model, "rewards of model b of step"),
    (break_off, "may end with OK"),
    (fall_back_unasked, "num_fallback_tokens = 1, it is 0"),
]


def test_a_right_history_breaks_nothing(checker: Checker, recompute: Recompute) -> None:
    history = right(recompute)
    assert checker.broken(ONE, [history], [history]) == []


@pytest.mark.parametrize(("spoil", "text"), SPOILERS, ids=[s[0].__name__ for s in SPOILERS])
def test_each_broken_promise_is_found(
    checker: Checker, recompute: Recompute, spoil: Callable[[History], None], text: str
) -> None:
    history = right(recompute)
    spoil(history)
    broken = checker.broken(ONE, [history], [right(recompute)])
    assert any(text in sentence for sentence in broken), broken


def test_an_answer_may_break_off_only_where_its_policy_and_the_faults_say_so() -> None:
    history = History(ASK)
    both = Scenario(0, (ASK,), (Fault(0.1, "process", 0, "kill"), Fault(0.1, "process", 1, "kill")))
    assert grpc.StatusCode.UNAVAILABLE not in allowed_statuses(ONE, history)
    assert grpc.StatusCode.UNAVAILABLE in allowed_statuses(both, history)


def test_the_recomputed_rewards_are_normalised_over_the_candidates(recompute: Recompute) -> None:
    ids = torch.arange(6).expand(3, -1)
    a, b = (recompute.rewards(ASK, [1, 2, 3], ids, version) for version in "ab")
    assert a.shape == (3, 6)
    assert not torch.allclose(a, b, atol=0.1)


@pytest.mark.parametrize("cancel_after", [None, 3])
@pytest.mark.parametrize(("kind", "is_allowed"), [("lose", True), ("kill", False)])
def test_a_profile_may_be_gone_where_redis_came_back_empty_and_before_any_token(
    kind: str, is_allowed: bool, cancel_after: int | None
) -> None:
    """Seed 117: a caller who meant to hang up was told, rightly, that there is no profile."""
    ask = replace(ASK, user_id="ann", preferences=(), cancel_after=cancel_after)
    scenario = Scenario(0, (ask,), (Fault(0.5, "redis", 0, kind),))
    gone = History(ask, status=grpc.StatusCode.NOT_FOUND)
    assert (grpc.StatusCode.NOT_FOUND in allowed_statuses(scenario, gone)) is is_allowed
    gone.messages.append(generator_pb2.GenerateResponse())
    assert grpc.StatusCode.NOT_FOUND not in allowed_statuses(scenario, gone)
