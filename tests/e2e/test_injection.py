"""No door of the running services takes a preference that could be more than that."""

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import redis

from generator_svc.profile_format import Preference, profile_key, to_fields, user_tag
from pad.v1 import common_pb2, reward_pb2, reward_pb2_grpc
from pad_client import GeneratorClient, InvalidRequestError, Message
from pad_client.embedded import EmbeddedStack
from svc_common.lm.tokenizer import load_tokenizer
from tests.injection.texts import ALLOWED, REFUSED

CHAT = [Message("user", "I need a bus to Sacramento next Friday.")]
RULE = "preferences[0].text: must "


@pytest.fixture(scope="module")
def rewards(stack: EmbeddedStack) -> Iterator[reward_pb2_grpc.RewardServiceStub]:
    with grpc.insecure_channel(stack.addresses["reward-0"]) as channel:
        yield reward_pb2_grpc.RewardServiceStub(channel)


@pytest.fixture(scope="module")
def store(stack: EmbeddedStack) -> Iterator[redis.Redis]:
    path = stack.addresses["redis"].removeprefix("unix://")
    with redis.Redis(unix_socket_path=path) as connected:
        yield connected


@pytest.fixture(scope="module")
def fingerprint(models_dir: Path) -> str:
    return load_tokenizer(models_dir / "demo-persrm").fingerprint


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        call()
    return caught.value.message


def reward_refusal(call: Callable[[], object]) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
    return str(caught.value.details())  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", REFUSED)
def test_the_generator_refuses_it_at_every_door(
    client: GeneratorClient, store: redis.Redis, name: str
) -> None:
    text = REFUSED[name]
    asked = {"messages": CHAT, "preferences": ["Be kind.", text], "max_tokens": 2}
    doors: list[Callable[[], object]] = [
        lambda: client.put_profile("injector", ["Be kind.", text]),
        lambda: client.complete(**asked),  # type: ignore[arg-type]
        lambda: client.complete(**asked, strategy="prompt"),  # type: ignore[arg-type]
        lambda: client.complete(**asked, strategy="best-of-n"),  # type: ignore[arg-type]
        lambda: list(client.generate(**asked)),  # type: ignore[arg-type]
    ]
    for door in doors:
        message = refusal(door)
        assert message.startswith("preferences[1].text: must ")
        assert text not in message
    # An older version, or somebody else, may have written one.
    user_id = f"kept-{list(REFUSED).index(name)}"
    key = profile_key(user_tag("default", user_id))
    fields = to_fields((Preference(text, 1.0),), None, 1.0) | {"revision": "1"}
    store.hset(key, mapping=fields)  # type: ignore[arg-type]
    for strategy in ("pad", "prompt"):
        message = refusal(
            lambda strategy=strategy: client.complete(  # type: ignore[misc]
                messages=CHAT, user_id=user_id, strategy=strategy, max_tokens=2
            )
        )
        assert message.startswith(f"profile.{RULE}")
    assert client.get_profile(user_id).preferences[0].text == text  # its owner can see and mend it
    client.delete_profile(user_id)


@pytest.mark.parametrize("name", REFUSED)
def test_the_reward_service_trusts_no_generator(
    rewards: reward_pb2_grpc.RewardServiceStub, fingerprint: str, name: str
) -> None:
    text = REFUSED[name]
    stated = common_pb2.Preference(text=text)
    context = reward_pb2.RewardContext(
        prompt="Hello",
        preferences=[reward_pb2.EncodedPreference(preference=stated)],
        reference=common_pb2.REFERENCE_MODE_BACKBONE,
    )
    encode = reward_pb2.EncodePreferenceRequest(preference=stated)
    assert reward_refusal(lambda: rewards.EncodePreference(encode)).startswith(
        "preference.text: must "
    )
    whole = reward_pb2.ScoreSequencesRequest(
        context=context, sequences=[b"\x09\0\0\0"], tokenizer_fingerprint=fingerprint
    )
    assert reward_refusal(lambda: rewards.ScoreSequences(whole)).startswith(RULE)
    opening = reward_pb2.SessionOpen(session=1, context=context, tokenizer_fingerprint=fingerprint)
    call = rewards.Score(iter([reward_pb2.ScoreRequest(opens=[opening])]))
    (fault,) = next(call).row_errors
    assert fault.reason == reward_pb2.ROW_ERROR_REASON_INVALID
    assert fault.message.startswith(RULE)
    call.cancel()


@pytest.mark.parametrize("name", ALLOWED)
def test_what_only_looks_odd_is_a_preference_like_any_other(
    client: GeneratorClient, name: str
) -> None:
    text = ALLOWED[name]
    put = client.put_profile("odd", [text])
    assert put.preferences[0].text == text  # kept as it came
    for options in ({"user_id": "odd"}, {"preferences": [text], "strategy": "prompt"}):
        answer = client.complete(messages=CHAT, max_tokens=2, **options)  # type: ignore[arg-type]
        assert 1 <= len(answer.tokens) <= 2
    client.delete_profile("odd")
