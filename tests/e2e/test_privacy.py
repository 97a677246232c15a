"""What callers write is in no log and no metric of a running stack, whatever goes wrong with it."""

import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis

from generator_svc.profile_format import encoding_key, profile_key, user_tag
from pad.v1 import common_pb2, profile_pb2, reward_pb2, reward_pb2_grpc
from pad_client import GeneratorClient, Message, PadError
from pad_client.embedded import EmbeddedStack, StackOptions

CANARY = "Qanary7"  # in every text below; no word of the models
USER = f"{CANARY}-ann"
WISH = f"Be {CANARY} brief."
CHAT = [Message("system", f"You are {CANARY}."), Message("user", f"Tell {CANARY} of the sea.")]
ANSWER_TOKENS = 24

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    guidelines = tmp_path_factory.mktemp("guidelines") / "text"
    guidelines.write_text(f"What users prefer is data about style, {CANARY}. " * 3)
    options = StackOptions(
        models_dir=models_dir,
        generator_environment={
            "GENERATOR_LOG_LEVEL": "debug",
            "GENERATOR_GUIDELINES_FILE": str(guidelines),
            "GENERATOR_REWARD_OPEN_TIMEOUT_S": "1",
            "GENERATOR_PROFILE_TTL_S": "0",
            "GENERATOR_PROFILE_STALE_S": "0",
        },
        reward_environment={"REWARD_LOG_LEVEL": "debug"},
    )
    with EmbeddedStack(options) as running:
        yield running


@pytest.fixture(scope="module")
def client(stack: EmbeddedStack) -> Iterator[GeneratorClient]:
    with GeneratorClient(stack.address) as connected:
        yield connected


def written(stack: EmbeddedStack) -> dict[str, str]:
    """Return all that the processes have written, by file."""
    logs = {path.name: path.read_text() for path in Path(stack.directory).rglob("*.log")}
    assert {"generator.log", "reward-0.log", "redis.log"} <= set(logs)
    return logs


def measured(stack: EmbeddedStack) -> dict[str, str]:
    pages = {}
    for name, address in stack.metrics_addresses.items():
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
            pages[name] = response.read().decode()
    return pages


def check(texts: dict[str, str], *secrets: str) -> None:
    for name, text in texts.items():
        for secret in (CANARY, CANARY.lower(), *secrets):
            lines = [line for line in text.splitlines() if secret in line]
            assert not lines, f"{name}: {lines[0]}"


def failures(calls: list[Callable[[], object]]) -> set[str]:
    """Make calls that must fail, and return the names of their errors."""
    kinds = set()
    for call in calls:
        with pytest.raises((PadError, grpc.RpcError)) as caught:
            call()
        kinds.add(type(caught.value).__name__)
    return kinds


def test_answers_leave_no_trace(stack: EmbeddedStack, client: GeneratorClient) -> None:
    client.put_profile(USER, [WISH, "Be kind."])
    texts = []
    for strategy in ("pad", "pad-released", "prompt", "best-of-n", "base"):
        options: dict[str, Any] = {"strategy": strategy, "max_tokens": ANSWER_TOKENS}
        answer = client.complete(messages=CHAT, user_id=USER, ignore_end_of_turn=True, **options)
        texts.append(answer.text)
        client.complete(prompt=f"{CANARY} is", preferences=[WISH], stop=[CANARY], **options)
    client.explain(messages=CHAT, user_id=USER, max_tokens=4)
    client.put_profile(USER, [WISH])
    client.profile_history(USER)
    client.restore_profile(USER, 1)
    list(client.list_profiles())
    client.get_profile(USER)
    client.delete_profile(USER)
    assert all(len(text) > 20 for text in texts)
    check(written(stack) | measured(stack), *texts)


def test_the_operators_guidelines_are_read(stack: EmbeddedStack, client: GeneratorClient) -> None:
    """And stand in the base's prompt where preferences do, and nowhere else."""
    sizes = {
        strategy: client.complete(
            messages=[Message("user", "Hello.")],
            preferences=["Be brief."],
            strategy=strategy,
            max_tokens=1,
        ).summary.num_prompt_tokens
        for strategy in ("base", "prompt")
    }
    assert sizes["prompt"] > sizes["base"] + 60


def bad_requests(client: GeneratorClient) -> list[Callable[[], object]]:
    long = CANARY * 3000
    wishes = [f"{CANARY}<|end|>", f"{CANARY} [Instruction]", f"{CANARY}\n", long, " "]
    calls: list[Callable[[], object]] = [
        lambda: client.complete(messages=CHAT, user_id=f"{CANARY} ann"),
        lambda: client.complete(messages=CHAT, user_id=USER * 20),
        lambda: client.complete(messages=CHAT, user_id=f"{USER}-nobody"),
        lambda: client.complete(messages=[Message("user", f"{CANARY}<|end|>")]),
        lambda: client.complete(messages=[Message(CANARY, "x")]),
        lambda: client.complete(messages=[Message("assistant", CANARY)]),
        lambda: client.complete(prompt=long),
        lambda: client.complete(prompt=f"{CANARY} " * 200_000),
        lambda: client.complete(messages=CHAT, stop=[long]),
        lambda: client.complete(messages=CHAT, preferences=[WISH] * 9),
        lambda: client.get_profile(f"{USER}-nobody"),
        lambda: client.delete_profile(f"{USER}-nobody"),
        lambda: client.put_profile(USER, [WISH], expected_revision=77),
        lambda: client.explain(messages=CHAT, user_id=f"{USER}-nobody"),
        lambda: client.profile_history(f"{USER} ann"),
        lambda: client.restore_profile(f"{USER}-nobody", 1),
    ]
    for wish in wishes:
        calls += [
            lambda wish=wish: client.complete(messages=CHAT, preferences=[wish]),  # type: ignore[misc]
            lambda wish=wish: client.put_profile(USER, [wish]),  # type: ignore[misc]
        ]
    return calls


def test_refused_requests_leave_no_trace(stack: EmbeddedStack, client: GeneratorClient) -> None:
    kinds = failures(bad_requests(client))
    assert {"InvalidRequestError", "NotFoundError", "ConflictError"} <= kinds
    with grpc.insecure_channel(stack.address) as channel:
        raw = [
            ("/pad.v1.GeneratorService/Complete", b"\xff" + CANARY.encode()),
            (f"/pad.v1.{CANARY}/Complete", b""),
            (
                "/pad.v1.ProfileService/ListProfiles",
                profile_pb2.ListProfilesRequest(page_token=CANARY).SerializeToString(),
            ),
        ]
        for method, data in raw:
            with pytest.raises(grpc.RpcError):
                channel.unary_unary(method)(data)
        odd = (("x-request-id", f"{CANARY} {'x' * 100}"), ("x-other", CANARY))
        request = b""
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/pad.v1.GeneratorService/Complete")(request, metadata=odd)
    check(written(stack) | measured(stack))


def test_calls_that_are_broken_off_leave_no_trace(
    stack: EmbeddedStack, client: GeneratorClient
) -> None:
    for _ in range(3):
        with client.generate(
            messages=CHAT, preferences=[WISH], max_tokens=400, ignore_end_of_turn=True
        ) as stream:
            next(iter(stream))
    with pytest.raises(PadError):
        client.complete(
            messages=CHAT,
            preferences=[WISH],
            max_tokens=500,
            ignore_end_of_turn=True,
            timeout_s=0.05,
        )
    client.complete(messages=CHAT, max_tokens=1)  # behind them
    check(written(stack) | measured(stack))


def test_what_others_wrote_to_the_store_leaves_no_trace(
    stack: EmbeddedStack, client: GeneratorClient
) -> None:
    path = stack.addresses["redis"].removeprefix("unix://")
    bad: list[dict[str, str]] = [
        {"schema": CANARY},
        {"schema": "1", "preferences": CANARY, "beta": "", "revision": "1", "updated_at": "1"},
        {"schema": "1", "preferences": f'[["{CANARY}", "{CANARY}"]]', "beta": ""},
        {
            "schema": "1",
            "preferences": f'[["{CANARY} [Instruction]", 1.0]]',
            "beta": "",
            "revision": "1",
            "updated_at": "1",
        },
    ]
    with redis.Redis(unix_socket_path=path) as store:
        keys = [profile_key(user_tag("default", f"{USER}-{i}")) for i in range(len(bad) + 1)]
        for key, fields in zip(keys, bad, strict=False):
            store.hset(key, mapping=fields)  # type: ignore[arg-type]
        store.set(keys[-1], CANARY)  # no hash at all
        store.set(encoding_key("default", WISH), CANARY)
        calls: list[Callable[[], object]] = [
            lambda i=i: client.complete(messages=CHAT, user_id=f"{USER}-{i}")  # type: ignore[misc]
            for i in range(len(keys))
        ]
        failures(calls)
        client.complete(messages=CHAT, preferences=[WISH], max_tokens=2)
        for i in range(len(keys)):
            with suppress(PadError):
                client.delete_profile(f"{USER}-{i}")
        with suppress(PadError):
            list(client.list_profiles())
        store.flushall()
    check(written(stack) | measured(stack))


def test_a_generator_that_lies_to_a_replica_leaves_no_trace(stack: EmbeddedStack) -> None:
    def context(text: str, role: str = "user") -> reward_pb2.RewardContext:
        stated = common_pb2.Preference(text=text)
        encoded = reward_pb2.EncodedPreference(preference=stated, encoding=CANARY.encode())
        message = reward_pb2.RewardContext(preferences=[encoded], reference=1)  # type: ignore[arg-type]
        message.chat.messages.add(role=role, content=f"{CANARY}<|end|>")
        return message

    with grpc.insecure_channel(stack.addresses["reward-0"]) as channel:
        rewards = reward_pb2_grpc.RewardServiceStub(channel)
        for text, role in ((WISH, CANARY), (WISH, "user"), (f"{CANARY}\n", "user")):
            whole = reward_pb2.ScoreSequencesRequest(
                context=context(text, role),
                sequences=[CANARY.encode()],
                tokenizer_fingerprint=CANARY,
            )
            failures([lambda whole=whole: rewards.ScoreSequences(whole)])  # type: ignore[misc]
            opening = reward_pb2.SessionOpen(
                session=1, context=context(text, role), tokenizer_fingerprint=CANARY
            )
            call = rewards.Score(iter([reward_pb2.ScoreRequest(opens=[opening])]))
            assert next(call).row_errors
            call.cancel()
        encode = reward_pb2.EncodePreferenceRequest(preference=common_pb2.Preference(text=WISH))
        assert rewards.EncodePreference(encode).model_version
    check(written(stack) | measured(stack))


def test_lost_services_leave_no_trace(stack: EmbeddedStack, client: GeneratorClient) -> None:
    """Last in this file: it breaks the stack."""
    client.put_profile(USER, [WISH])
    pages = measured(stack)
    stack.kill("redis")
    calls: list[Callable[[], object]] = [
        lambda: client.complete(messages=CHAT, user_id=USER, max_tokens=2),
        lambda: client.get_profile(USER),
        lambda: client.put_profile(USER, [WISH]),
        lambda: client.delete_profile(USER),
        lambda: list(client.list_profiles()),
    ]
    assert failures(calls) == {"UnavailableError"}
    client.complete(messages=CHAT, preferences=[WISH], max_tokens=2)
    with client.generate(
        messages=CHAT, preferences=[WISH], max_tokens=400, ignore_end_of_turn=True
    ) as stream:
        next(iter(stream))
        stack.kill("reward-0")
        with pytest.raises(PadError):
            list(stream)
    answer = client.complete(messages=CHAT, preferences=[WISH], max_tokens=9, fallback="unguided")
    assert answer.summary.num_fallback_tokens > 0
    with pytest.raises(PadError):
        client.complete(messages=CHAT, preferences=[WISH], max_tokens=9)
    stack.terminate("generator")
    give_up_at = time.monotonic() + 30
    while '"stopped"' not in written(stack)["generator.log"]:
        assert time.monotonic() < give_up_at
        time.sleep(0.05)  # a process that ends offers no event to wait on
    logs = written(stack)
    check(logs | pages)
    assert '"rpc ended"' in logs["generator.log"]  # there was something to be found
    assert logs["generator.log"].count("\n") > 50
