"""Normal requests whose answers must be the same whatever came before them."""

import math
from typing import Any

import grpc
from google.protobuf.message import Message

from pad.v1 import common_pb2, generator_pb2, generator_pb2_grpc, reward_pb2, reward_pb2_grpc
from pad_client.embedded import EmbeddedStack
from tests.fuzz.tiny_stack import NUM_REWARD_ROWS
from tests.fuzz.values import pack

PREFERENCES = [common_pb2.Preference(text="Be brief."), common_pb2.Preference(text="Be kind.")]
STRATEGIES = (
    generator_pb2.STRATEGY_BASE,
    generator_pb2.STRATEGY_PROMPT,
    generator_pb2.STRATEGY_PAD,
    generator_pb2.STRATEGY_PAD_RELEASED,
    generator_pb2.STRATEGY_BEST_OF_N,
)
TOLERANCE = 1e-3  # what was cached is added up in another order than what is run


def fingerprint(stack: EmbeddedStack) -> str:
    """Return the tokenizer's."""
    return _reward_info(stack).tokenizer_fingerprint


def probe(stack: EmbeddedStack) -> list[Message]:
    """Ask everything that the services offer, one thing after the other."""
    with grpc.insecure_channel(stack.address) as channel:
        stub: Any = generator_pb2_grpc.GeneratorServiceStub(channel)
        answers = [_settled(stub.Complete(_request(one), timeout=60)) for one in STRATEGIES]
    with grpc.insecure_channel(stack.addresses["reward-0"]) as channel:
        stub = reward_pb2_grpc.RewardServiceStub(channel)
        prints = stub.GetServerInfo(reward_pb2.RewardServiceGetServerInfoRequest(), timeout=60)
        prints.ClearField("load")
        sequences = reward_pb2.ScoreSequencesRequest(
            context=_context(),
            sequences=[pack([70, 71, 72]), pack([99])],
            tokenizer_fingerprint=prints.tokenizer_fingerprint,
        )
        answers += [prints, stub.ScoreSequences(sequences, timeout=60)]
        answers += list(stub.Score(_steps(prints.tokenizer_fingerprint), timeout=60))
    for answer in answers:
        if isinstance(answer, reward_pb2.ScoreResponse):
            answer.ClearField("timings")
            answer.ClearField("load")
            for opened in answer.opened:
                opened.ClearField("num_cached_tokens")
    return answers


def is_idle(stack: EmbeddedStack) -> bool:
    """Tell whether the reward service has all of its rows and no session."""
    load = _reward_info(stack).load
    return load.num_free_slots == NUM_REWARD_ROWS and load.num_sessions == 0


def assert_same(before: list[Message], after: list[Message]) -> None:
    """Fail unless two probes gave the same, numbers up to rounding."""
    assert len(before) == len(after)
    for one, two in zip(before, after, strict=True):
        _compare(one, two, type(one).__name__)


def _compare(one: Any, two: Any, where: str) -> None:
    if isinstance(one, Message):
        fields, others = one.ListFields(), two.ListFields()
        names = [descriptor.name for descriptor, _ in fields]
        assert names == [descriptor.name for descriptor, _ in others], where
        for (descriptor, mine), (_, theirs) in zip(fields, others, strict=True):
            _compare(mine, theirs, f"{where}.{descriptor.name}")
    elif isinstance(one, float):
        assert math.isclose(one, two, rel_tol=TOLERANCE, abs_tol=TOLERANCE), (where, one, two)
    elif isinstance(one, (str, bytes, int)):
        is_rewards = where.endswith(".rewards.rewards")
        assert is_rewards or one == two, (where, one, two)
    else:
        assert len(one) == len(two), where
        for i, (mine, theirs) in enumerate(zip(one, two, strict=True)):
            _compare(mine, theirs, f"{where}[{i}]")


def _request(strategy: Any) -> generator_pb2.CompleteRequest:
    return generator_pb2.CompleteRequest(
        generation=generator_pb2.GenerateRequest(
            prompt="Tell me of the sea.",
            preferences=PREFERENCES,
            strategy=strategy,
            seed=7,
            temperature=0.7,
            max_tokens=12,
            detail=generator_pb2.DETAIL_CANDIDATES,
            ignore_end_of_turn=True,
        )
    )


def _settled(answer: generator_pb2.CompleteResponse) -> generator_pb2.CompleteResponse:
    """Return an answer without what differs from one time to the next."""
    answer.summary.ClearField("timings")
    answer.summary.ClearField("request_id")
    return answer


def _context() -> reward_pb2.RewardContext:
    return reward_pb2.RewardContext(
        prompt="Tell me of the sea.",
        preferences=[reward_pb2.EncodedPreference(preference=one) for one in PREFERENCES],
        reference=common_pb2.REFERENCE_MODE_BACKBONE,
    )


def _steps(tokenizer_fingerprint: str) -> Any:
    opening = reward_pb2.SessionOpen(
        session=1, context=_context(), tokenizer_fingerprint=tokenizer_fingerprint
    )
    yield reward_pb2.ScoreRequest(opens=[opening])
    for step in range(3):
        row = {"sessions": pack([1]), "epochs": pack([0]), "steps": pack([step])}
        asked = reward_pb2.CandidateRows(
            **row, num_candidates=pack([3]), candidate_ids=pack([70, 71, 72])
        )
        commit = reward_pb2.CommitRows(**row, token_ids=pack([71]))
        yield reward_pb2.ScoreRequest(candidates=asked, batch_id=step + 1)
        yield reward_pb2.ScoreRequest(commits=commit)


def _reward_info(stack: EmbeddedStack) -> reward_pb2.RewardServiceGetServerInfoResponse:
    with grpc.insecure_channel(stack.addresses["reward-0"]) as channel:
        stub: Any = reward_pb2_grpc.RewardServiceStub(channel)
        info: reward_pb2.RewardServiceGetServerInfoResponse = stub.GetServerInfo(
            reward_pb2.RewardServiceGetServerInfoRequest(), timeout=60
        )
        return info
