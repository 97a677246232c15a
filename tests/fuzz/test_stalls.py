"""The largest messages that are read: nobody else waits long for their sake, and no memory is lost.

The figures are printed (`pytest -s`); what is asserted leaves room for a busy machine.
"""

from collections.abc import Iterator
from contextlib import suppress

import grpc
import pytest

from benchmarks.suites.memory import rss_bytes
from pad.v1 import common_pb2, generator_pb2, reward_pb2
from pad_client.embedded import EmbeddedStack
from reward_svc.wire import MAX_OPENINGS
from tests.fuzz.campaign import check_unharmed
from tests.fuzz.probes import fingerprint
from tests.fuzz.runner import OPTIONS
from tests.fuzz.stall_watch import StallWatch
from tests.fuzz.tiny_stack import SERVICES, complaints
from tests.fuzz.values import pack

MAX_STALL_S = 4.0  # 0.05 s where the machine is free; it was over a minute
MAX_GROWTH_MIB = 300
SCORE = "/pad.v1.RewardService/Score"
SEQUENCES = "/pad.v1.RewardService/ScoreSequences"
COMPLETE = "/pad.v1.GeneratorService/Complete"
PUT = "/pad.v1.ProfileService/PutProfile"
EMPTY_OPENING = b"\x12\x00"
ROWS = 2048  # as many as a message may have
MANY = pack([1] * ROWS)


def context(encoding: bytes = b"", prompt: str = "The sea") -> reward_pb2.RewardContext:
    preference = common_pb2.Preference(text="Be brief.")
    return reward_pb2.RewardContext(
        prompt=prompt,
        preferences=[reward_pb2.EncodedPreference(preference=preference, encoding=encoding)],
        reference=common_pb2.REFERENCE_MODE_BACKBONE,
    )


def turns(count: int) -> reward_pb2.RewardContext:
    """Return a conversation of which each turn takes two bytes."""
    chat = common_pb2.Chat.FromString(b"\x0a\x00" * count)
    return reward_pb2.RewardContext(chat=chat)


def opening(mark: str, **fields: object) -> reward_pb2.SessionOpen:
    fields = {"context": context(), **fields}
    return reward_pb2.SessionOpen(session=1, tokenizer_fingerprint=mark, **fields)  # type: ignore[arg-type]


def commits(numbers: bytes) -> reward_pb2.ScoreRequest:
    arrays = dict.fromkeys(("sessions", "epochs", "steps", "token_ids"), numbers)
    return reward_pb2.ScoreRequest(commits=reward_pb2.CommitRows(**arrays))


def candidates(numbers: bytes) -> reward_pb2.ScoreRequest:
    names = ("sessions", "epochs", "steps", "num_candidates", "candidate_ids")
    asked = reward_pb2.CandidateRows(**dict.fromkeys(names, numbers))
    return reward_pb2.ScoreRequest(candidates=asked, batch_id=1)


def to_reward(mark: str) -> Iterator[tuple[str, str, list[bytes]]]:
    """Yield name, method and messages of what a hostile generator might send."""
    ids = pack([1] * 900_000)
    texts = "word " * 400
    long = [common_pb2.Preference(text=texts[:2000]) for _ in range(8)]
    fat = context(prompt="word " * 50)
    fat.preferences.extend([reward_pb2.EncodedPreference(preference=one) for one in long[:7]])
    score = {
        "closings": [reward_pb2.ScoreRequest(closes=[1] * 3_000_000)],
        "openings of nothing": [EMPTY_OPENING * 1_900_000],
        "as many openings of nothing as are read": [EMPTY_OPENING * MAX_OPENINGS] * 4,
        "turns of nothing": [
            reward_pb2.ScoreRequest(opens=[opening(mark, context=turns(1_900_000))])
        ],
        "openings of long prompts": [
            reward_pb2.ScoreRequest(opens=[opening(mark, context=fat)] * 64)
        ],
        "commits": [commits(ids)],
        "commits of no session": [commits(MANY)] * 2,
        "candidates": [candidates(pack([1] * 200_000))],
        "candidates of no session": [candidates(MANY)] * 8,
        "token ids": [reward_pb2.ScoreRequest(opens=[opening(mark, token_ids=ids)])],
        "a hint": [reward_pb2.ScoreRequest(opens=[opening(mark, context=context(ids))])],
    }
    for name, messages in score.items():
        yield (
            name,
            SCORE,
            [one if isinstance(one, bytes) else one.SerializeToString() for one in messages],
        )
    request = reward_pb2.ScoreSequencesRequest(
        context=context(), sequences=[ids], tokenizer_fingerprint=mark
    )
    yield "an answer", SEQUENCES, [request.SerializeToString()]


def to_generator() -> Iterator[tuple[str, str, list[bytes]]]:
    """Yield what a hostile caller might send."""
    turn, empty = common_pb2.ChatMessage(role="user", content="a"), common_pb2.ChatMessage()
    asked = {
        "turns": generator_pb2.GenerateRequest(chat=common_pb2.Chat(messages=[turn] * 90_000)),
        "empty turns": generator_pb2.GenerateRequest(
            chat=common_pb2.Chat(messages=[empty] * 500_000)
        ),
        "as many turns as are read": generator_pb2.GenerateRequest(
            chat=common_pb2.Chat(messages=[turn] * 1024)
        ),
        "a prompt": generator_pb2.GenerateRequest(prompt="a" * 1_000_000),
        "the longest prompt that is tokenised": generator_pb2.GenerateRequest(prompt="a" * 3000),
        "stop strings": generator_pb2.GenerateRequest(prompt="a", stop=["b"] * 300_000),
        "preferences": generator_pb2.GenerateRequest(
            prompt="a", preferences=[common_pb2.Preference()] * 500_000
        ),
    }
    for name, generation in asked.items():
        message = generator_pb2.CompleteRequest(generation=generation)
        yield name, COMPLETE, [message.SerializeToString()]
    yield "preferences of a profile", PUT, [b"\x0a\x01a" + EMPTY_OPENING * 500_000]


def send(address: str, method: str, messages: list[bytes]) -> str:
    """Send messages on one call and return its status; a stream's answers are all read."""
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        if method == SCORE:
            call = channel.stream_stream(method, bytes, bytes)(iter(messages), timeout=120)
            with suppress(grpc.RpcError):
                for _ in call:
                    pass
        else:
            _, call = (
                None,
                channel.unary_unary(method, bytes, bytes).future(messages[0], timeout=120),
            )
        return str(call.code().name)


@pytest.mark.parametrize("service", SERVICES)
def test_the_largest_messages_hold_up_nobody(stack: EmbeddedStack, service: str) -> None:
    """A message of 2 MB, all of it sessions to open, stopped the reward service for a minute."""
    starts: dict[str, int] = {}
    complaints(stack, starts)
    cases = to_generator() if service == "generator" else to_reward(fingerprint(stack))
    address, pid = stack.addresses[service], stack.pids[service]
    found = []
    with StallWatch(address) as watch:
        for name, method, messages in cases:
            before = rss_bytes(pid)
            watch.take()
            code = send(address, method, messages)
            stall_s, grown = watch.take(), (rss_bytes(pid) - before) / (1 << 20)
            size = sum(map(len, messages)) / 1e6
            line = (
                f"{name} ({size:.2f} MB): {code}, others waited {stall_s:.3f} s, {grown:+.0f} MiB"
            )
            print(line)  # noqa: T201
            if stall_s > MAX_STALL_S or grown > MAX_GROWTH_MIB:
                found.append(line)
            assert code in ("OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"), line
    assert not found, "\n".join(found)
    check_unharmed(stack, starts)


@pytest.mark.parametrize("service", SERVICES)
def test_a_small_message_that_unpacks_to_a_huge_one_is_refused(
    stack: EmbeddedStack, service: str
) -> None:
    path = COMPLETE if service == "generator" else SEQUENCES
    before = rss_bytes(stack.pids[service])
    with grpc.insecure_channel(stack.addresses[service], options=OPTIONS) as channel:
        call = channel.unary_unary(path, bytes, bytes)
        with pytest.raises(grpc.RpcError) as caught:
            call(bytes(200_000_000), timeout=120, compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (rss_bytes(stack.pids[service]) - before) / (1 << 20) < 64


def test_answers_that_nobody_reads_end_their_stream_and_take_little_memory(
    stack: EmbeddedStack,
) -> None:
    """Answers piled up as long as messages came: one message could ask for a million."""
    before = rss_bytes(stack.pids["reward-0"])
    data = [commits(MANY).SerializeToString()] * 400  # 800,000 rows that are each refused
    with grpc.insecure_channel(stack.addresses["reward-0"], options=OPTIONS) as channel:
        call = channel.stream_stream(SCORE, bytes, bytes)(iter(data), timeout=120)
        check_unharmed(stack, dict.fromkeys(SERVICES, 1 << 40))  # it serves others meanwhile
        with pytest.raises(grpc.RpcError):
            for _ in call:
                pass
        assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (rss_bytes(stack.pids["reward-0"]) - before) / (1 << 20) < 64
