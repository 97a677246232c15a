"""A caller that leaves, however and whenever, frees its rows in both services by the next step."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from pad.v1 import generator_pb2, generator_pb2_grpc
from pad_client import DeadlineExceededError, GeneratorClient, Message
from pad_client.requests import build_request
from tests.conftest import RedisServer
from tests.e2e.processes import Fleet, Service, fleet, until

pytestmark = pytest.mark.slow

NUM_SLOTS = 4
PHASES = ("slot", "prompt", "rewards", "tokens")
LONG: dict[str, Any] = {
    "messages": [Message("user", "Find me a restaurant.")],
    "preferences": ["Be brief."],
    "max_tokens": 500,
    "ignore_end_of_turn": True,
}
SMALL_WINDOW = (("grpc.http2.lookahead_bytes", 16384), ("grpc.http2.bdp_probe", 0))
READER = """
import sys
from pad_client import GeneratorClient
with GeneratorClient(sys.argv[1]) as client:
    for token in client.generate(
        prompt="Hello", preferences=["Be brief."], max_tokens=500, ignore_end_of_turn=True
    ):
        print(token.index, flush=True)
"""


class Pair:
    """A generator and a reward service, and what both say of their rows."""

    def __init__(self, services: Fleet) -> None:
        (self.generator,), (self.reward,) = services.generators, services.rewards
        self.client = GeneratorClient(self.generator.address, timeout_s=120)
        self.channel = grpc.insecure_channel(self.generator.address, options=SMALL_WINDOW)
        self.stub = generator_pb2_grpc.GeneratorServiceStub(self.channel)
        self._num_rows = self._free_rows()

    def close(self) -> None:
        self.client.close()
        self.channel.close()

    def active(self) -> float:
        return self.generator.metric('pad_sessions{state="active"}')

    def waiting(self) -> float:
        return self.generator.metric('pad_sessions{state="waiting"}')

    def num_left(self, phase: str) -> float:
        return self.generator.metric(f'pad_cancelled_steps_count{{phase="{phase}"}}')

    def num_prompt_tokens(self) -> float:
        sources = ("forward", "cache", "row")
        name = "pad_prompt_tokens_total"
        return sum(self.generator.metric(f'{name}{{source="{source}"}}') for source in sources)

    def num_ended(self, method: str, code: str) -> float:
        name = f"pad.v1.GeneratorService/{method}"
        return self.generator.metric(f'pad_rpc_total{{code="{code}",method="{name}"}}')

    def check_is_free(self) -> None:
        """Wait until all rows are back, and see that no answer outlived its caller by two steps."""
        until(lambda: self.generator.metric("pad_free_slots") == NUM_SLOTS, "free slots")
        until(lambda: self.active() == self.waiting() == 0, "an engine without answers")
        until(lambda: self.reward.metric("pad_reward_sessions") == 0, "closed reward sessions")
        until(lambda: self._free_rows() == self._num_rows, "free reward rows")
        for phase in PHASES:
            within = f'pad_cancelled_steps_bucket{{le="1.0",phase="{phase}"}}'
            assert self.generator.metric(within) == self.num_left(phase)

    def _free_rows(self) -> float:
        return self.reward.metric("pad_reward_free_slots")


@pytest.fixture(scope="module")
def running(
    models_dir: Path, tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer
) -> Iterator[Pair]:
    settings = {
        "GENERATOR_NUM_SLOTS": str(NUM_SLOTS),
        "GENERATOR_MAX_STALL_S": "1",
        "GENERATOR_PREFILL_CHUNK": "16",
        "GENERATOR_REWARD_OPEN_TIMEOUT_S": "60",
        "GENERATOR_REWARD_STEP_TIMEOUT_S": "60",
    }
    folder = tmp_path_factory.mktemp("services")
    with fleet(models_dir, folder, redis_server.url, **settings) as services:
        services.launch()
        services.wait_until_serving()
        pair = Pair(services)
        try:
            yield pair
        finally:
            pair.close()


@pytest.fixture
def pair(running: Pair) -> Iterator[Pair]:
    running.check_is_free()
    yield running
    running.check_is_free()


def paused(service: Service) -> "Paused":
    return Paused(service.process.pid)


class Paused:
    """A process that is stopped for as long as the block lasts."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __enter__(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGCONT)


def test_while_tokens_are_written(pair: Pair) -> None:
    before = pair.num_left("tokens")
    with pair.client.generate(**LONG) as stream:
        for token in stream:
            if token.index == 5:
                break
    until(lambda: pair.num_left("tokens") == before + 1, "the caller's leaving")


def test_while_it_waits_for_a_slot(pair: Pair) -> None:
    before = pair.num_left("slot")
    streams = [pair.client.generate(**LONG) for _ in range(NUM_SLOTS)]
    for stream in streams:
        next(stream)
    late = pair.client.generate(**LONG)
    until(lambda: pair.waiting() == 1, "a queue")
    late.close()
    until(lambda: pair.num_left("slot") == before + 1, "the caller's leaving")
    assert pair.active() == NUM_SLOTS  # the others are written on
    for stream in streams:
        next(stream)
        stream.close()


def test_while_its_prompt_is_read(pair: Pair) -> None:
    """Some of these callers leave in the 50 steps that the prompt takes."""
    before = pair.num_left("prompt")
    for number in range(100):
        prompt = f"{number} " + "some of all the words there are " * 120
        stream = pair.client.generate(**{**LONG, "messages": None, "prompt": prompt})
        until(lambda: pair.active() == 1, "a slot")
        stream.close()
        until(lambda: pair.active() == pair.waiting() == 0, "the end of the call")
        if pair.num_left("prompt") > before:
            return
    pytest.fail("no caller left while a prompt was read")


def test_while_it_waits_for_a_reward_session(pair: Pair) -> None:
    known = pair.client.complete(**{**LONG, "max_tokens": 1})  # its encoding, from now on
    before, num_read = pair.num_left("rewards"), pair.num_prompt_tokens()
    with paused(pair.reward):
        stream = pair.client.generate(**LONG)
        num_tokens = known.summary.num_prompt_tokens
        until(lambda: pair.num_prompt_tokens() >= num_read + num_tokens, "the prompt")
        stream.close()
        until(lambda: pair.num_left("rewards") == before + 1, "the caller's leaving")


def test_while_its_preferences_are_encoded(pair: Pair) -> None:
    with paused(pair.reward), pytest.raises(DeadlineExceededError):
        pair.client.complete(**{**LONG, "preferences": ["Speak like a pirate."]}, timeout_s=0.5)


def test_while_its_profile_is_looked_up(pair: Pair, redis_server: RedisServer) -> None:
    redis_server.pause()
    try:
        with pytest.raises(DeadlineExceededError):
            pair.client.complete(**{**LONG, "preferences": ()}, user_id="left", timeout_s=0.05)
    finally:
        redis_server.resume()


def test_while_several_samples_are_written(pair: Pair) -> None:
    before = pair.num_left("tokens")
    stream = pair.client.generate(**LONG, strategy="best-of-n", num_samples=3)
    until(lambda: pair.active() == 3, "three samples")
    stream.close()
    until(lambda: pair.active() == 0, "their end")
    assert pair.num_left("tokens") > before


def test_a_whole_answer_that_is_cancelled(pair: Pair) -> None:
    request = generator_pb2.CompleteRequest(generation=build_request(**LONG))
    call = pair.stub.Complete.future(request, timeout=120)
    until(lambda: pair.active() == 1, "the answer's start")
    call.cancel()
    until(lambda: pair.num_ended("Complete", "CANCELLED") >= 1, "the call's end")


def test_a_caller_that_is_killed(pair: Pair) -> None:
    before = pair.num_left("tokens")
    command = [sys.executable, "-c", READER, pair.generator.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        reader.kill()
    until(lambda: pair.num_left("tokens") == before + 1, "the caller's leaving")


def test_a_caller_that_does_not_read_stops_nobody_and_is_hung_up_on(pair: Pair) -> None:
    request = build_request(**LONG, detail="candidates", top_k=100)
    stalled = pair.stub.Generate(request, timeout=300)
    next(stalled)
    assert len(pair.client.complete(**{**LONG, "max_tokens": 50}).tokens) == 50
    until(lambda: "reader stalled" in pair.generator.log, "the end of patience")
    until(lambda: pair.active() == 0, "the end of the answer")
    with pytest.raises(grpc.RpcError) as caught:
        for _ in stalled:
            pass
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == "reader: must take a message within 1 s, took none"
