"""Callers move from one version of a vector reward model to the next, and none of them notices."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from pad_client import Completion, GeneratorClient, Message
from tests.e2e.processes import Fleet, fleet, until
from tests.e2e.test_vectors import conditioned

ENCODED = 'pad_rpc_total{code="OK",method="pad.v1.RewardService/EncodePreference"}'
COMPLETE = 'pad_encodings_ahead_versions{state="complete"}'
WISHES = {
    f"user-{number}": wish
    for number, wish in enumerate(
        ["Be brief.", "Be formal.", "Sound excited!", "Be polite.", "Use simple words.", "Be warm."]
    )
}
EARLY, LATE = list(WISHES)[:3], list(WISHES)[3:]  # who asks before, and who only after the change
NUM_CALLERS = 2

pytestmark = pytest.mark.slow


@pytest.fixture
def versions(
    models_dir: Path, tmp_path: Path, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """A generator that knows two replicas, each with a version of its own; none is started."""
    with fleet(models_dir, tmp_path, redis_url, num_rewards=2) as services:
        for seed, reward in enumerate(services.rewards):
            folder = tmp_path_factory.mktemp("version")
            conditioned(models_dir, folder, "vector", seed)
            reward.environment["REWARD_MODEL_DIR"] = str(folder / "demo-persrm")
        yield services


def write(client: GeneratorClient, user: str) -> Completion:
    answer = client.complete(
        messages=[Message("user", "Find me a restaurant.")],
        user_id=user,
        max_tokens=12,
        temperature=0,
        ignore_end_of_turn=True,
    )
    assert answer.summary.num_guided_tokens == 12
    return answer


def encoded_versions(redis_url: str) -> list[set[str]]:
    """Return for which versions each text has an encoding."""
    with redis.Redis.from_url(redis_url) as client:
        keys = [key for key in client.keys("pad:v1:enc:*") if client.type(key) == b"hash"]
        return [{version.decode() for version in client.hkeys(key)} for key in keys]


def test_a_new_version_takes_over_with_all_preferences_encoded(
    versions: Fleet, redis_url: str
) -> None:
    (generator,), (old, new) = versions.generators, versions.rewards
    old.launch()
    generator.launch()
    old.wait_until_serving()
    generator.wait_until_serving()
    with GeneratorClient(generator.address, timeout_s=60) as client:
        for user, wish in WISHES.items():
            client.put_profile(user, [wish])
        before = {user: write(client, user) for user in EARLY}
        is_over = threading.Event()

        def call(number: int) -> int:
            num_answers = 0
            while not is_over.is_set():
                write(client, EARLY[(number + num_answers) % len(EARLY)])
                num_answers += 1
            return num_answers

        with ThreadPoolExecutor(NUM_CALLERS) as pool:
            calls = [pool.submit(call, number) for number in range(NUM_CALLERS)]
            try:
                new.launch()
                until(lambda: generator.metric(COMPLETE) == 2, "both versions to be encoded", 120)
                assert old.stop() == 0
            finally:
                is_over.set()
            assert all(each.result() > 0 for each in calls)  # none failed
        num_encoded = new.metric(ENCODED)
        assert num_encoded >= len(LATE)
        after = {user: write(client, user) for user in WISHES}
    assert new.metric(ENCODED) == num_encoded  # nobody's first answer waited for an encoding
    assert len({answer.summary.reward_model_version for answer in before.values()}) == 1
    (version,) = {answer.summary.reward_model_version for answer in after.values()}
    assert version != before[EARLY[0]].summary.reward_model_version
    kept = encoded_versions(redis_url)
    assert len(kept) == len(WISHES)
    assert all(version in each for each in kept)
