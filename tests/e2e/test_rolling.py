"""All generators and all reward services are replaced under load, and no caller notices."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pad_client import GeneratorClient, Message
from tests.e2e.processes import Fleet, fleet

NUM_CALLERS = 4
GREEDY: dict[str, Any] = {"max_tokens": 30, "ignore_end_of_turn": True, "temperature": 0.0}
JOBS: list[dict[str, Any]] = [
    {"messages": [Message("user", "Find me a restaurant.")], "user_id": "rolling", **GREEDY},
    {"messages": [Message("user", "I need a taxi.")], "preferences": ["Be formal."], **GREEDY},
    {"messages": [Message("user", "Any museums?")], "preferences": ["Be brief."], **GREEDY},
    {"messages": [Message("user", "Book a hotel.")], "strategy": "base", **GREEDY},
    {
        "messages": [Message("user", "Which train?")],
        "preferences": ["Be kind."],
        "strategy": "best-of-n",
        "num_samples": 2,
        "seed": 7,
        "max_tokens": 12,
    },
]


@pytest.fixture
def four(models_dir: Path, tmp_path: Path, redis_url: str) -> Iterator[Fleet]:
    with fleet(models_dir, tmp_path, redis_url, num_generators=2, num_rewards=2) as services:
        services.launch()
        services.wait_until_serving()
        yield services


def write(client: GeneratorClient, number: int) -> list[int]:
    """Return the tokens of a job, by a stream or as a whole."""
    job = JOBS[number % len(JOBS)]
    if number % 2:
        return [token.token_id for token in client.complete(**job).tokens]
    with client.generate(**job) as stream:
        return [token.token_id for token in stream]


class Callers:
    """Threads that ask, one answer after the other, and compare it with the undisturbed one."""

    def __init__(self, client: GeneratorClient, expected: list[list[int]]) -> None:
        self._client, self._expected = client, expected
        self._is_over = threading.Event()
        self.num_answers = 0

    def call(self, first: int) -> None:
        number = first
        while not self._is_over.is_set():
            assert write(self._client, number) == self._expected[number % len(JOBS)]
            self.num_answers += 1
            number += 1

    def stop(self) -> None:
        self._is_over.set()


@pytest.mark.slow
def test_a_rolling_restart_of_everything_fails_no_call_and_changes_no_token(four: Fleet) -> None:
    with GeneratorClient(four.addresses, timeout_s=60) as client:
        client.put_profile("rolling", ["Be polite and thorough."])
        expected = [write(client, number) for number in range(len(JOBS))]
        callers = Callers(client, expected)
        with ThreadPoolExecutor(NUM_CALLERS) as pool:
            calls = [pool.submit(callers.call, first) for first in range(NUM_CALLERS)]
            try:
                for pair in zip(four.generators, four.rewards, strict=True):
                    num_answers = callers.num_answers
                    for service in pair:
                        assert service.stop() == 0, service.log[-2000:]
                        service.launch()
                    for service in pair:
                        service.wait_until_serving()
                    assert callers.num_answers > num_answers  # it was under load
            finally:
                callers.stop()
            for call in calls:
                call.result()
    for generator in four.generators:
        assert generator.metric('pad_start_passed{part="rewards"}') == 1
