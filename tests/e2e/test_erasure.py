"""Erasing a user leaves nothing of them: in Redis, in two generators, in two reward replicas."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis

from generator_svc.profile_format import subject_of, user_tag
from pad.v1 import common_pb2, reward_pb2, reward_pb2_grpc
from pad_client import GeneratorClient, Message, NotFoundError
from pad_client.embedded import EmbeddedStack, StackOptions

USER = "canary-user-17"
CANARY = "Sing of canaries: every sentence must name a yellow bird from the islands."
CONTROL = "Walk in silence: not one sentence may speak of any mountain in the north."
OTHERS = "Answer in a friendly way, as one old neighbour talks to another one."
SECONDS = 20


@contextmanager
def second_generator(stack: EmbeddedStack, models_dir: Path) -> Iterator[tuple[str, str]]:
    """Run one more generator on the stack's store and replicas; yield its two addresses."""
    replicas = (stack.addresses[f"reward-{i}"] for i in range(2))
    environment = {
        "GENERATOR_MODEL_DIR": str(models_dir / "demo-base"),
        "GENERATOR_REWARD_TARGETS": ",".join(replicas),
        "GENERATOR_REDIS_URL": f"unix://{stack.directory}/redis.sock",
        "GENERATOR_LISTEN": "127.0.0.1:0",
        "GENERATOR_METRICS_PORT": "0",
    }
    command = [sys.executable, "-m", "generator_svc"]
    with subprocess.Popen(
        command, env=os.environ | environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        line = next((line for line in process.stderr if '"serving"' in line), "{}")
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        try:
            said = json.loads(line)
            metrics = f"127.0.0.1:{said['metrics_port']}"
            # It drops all prefixes when it begins to hear of changes, which may be after "serving".
            until(lambda: measured(metrics, "pad_profile_changes_missed_total") >= 1)
            yield said["address"], metrics
        finally:
            process.kill()
            drain.join()


def measured(address: str, series: str) -> float:
    """Return a value of a process's metrics, 0 if there is none yet."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        found = re.search(rf"^{re.escape(series)} (\S+)$", response.read().decode(), re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does: there is no event to wait on."""
    give_up_at = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def cached_by_replica(address: str, fingerprint: str, text: str, subject: bytes = b"") -> int:
    """Open a session under a preference; return how many tokens its prompt was spared."""
    opening = reward_pb2.SessionOpen(session=1, tokenizer_fingerprint=fingerprint)
    opening.context.prompt = "x"
    opening.context.subject = subject
    opening.context.reference = common_pb2.REFERENCE_MODE_BASE
    opening.context.preferences.add().preference.text = text
    with grpc.insecure_channel(address) as channel:
        stub = reward_pb2_grpc.RewardServiceStub(channel)
        request = reward_pb2.ScoreRequest(opens=[opening])
        (answer,) = stub.Score(iter([request]), timeout=SECONDS)
        return int(answer.opened[0].num_cached_tokens)


def cached_by_generator(client: GeneratorClient, metrics: str, **whose: Any) -> float:
    """Have preferences stand in the base model's prompt; return how many tokens were spared."""
    series = 'pad_prompt_tokens_total{source="cache"}'
    before = measured(metrics, series)
    client.complete(prompt="x", strategy="prompt", max_tokens=1, **whose)
    return measured(metrics, series) - before


def everything(store: "redis.Redis[bytes]") -> bytes:
    """Return all keys and all values of a server."""
    parts = []
    for database in store.info("keyspace"):
        store.select(int(database[2:]))
        for key in store.scan_iter():
            read = {
                b"string": store.get,
                b"hash": store.hgetall,
                b"zset": lambda key: store.zrange(key, 0, -1),
            }[store.type(key)]
            parts.append(repr((key, read(key))).encode())
    return b"\n".join(parts)


@pytest.mark.slow
def test_nothing_of_an_erased_user_is_left_anywhere(models_dir: Path) -> None:
    options = StackOptions(models_dir=models_dir, num_reward_replicas=2)
    with (
        EmbeddedStack(options) as stack,
        second_generator(stack, models_dir) as (address, metrics),
        GeneratorClient(stack.address) as here,
        GeneratorClient(address) as there,
        redis.Redis(unix_socket_path=f"{stack.directory}/redis.sock") as store,
    ):
        generators = {here: stack.metrics_addresses["generator"], there: metrics}
        replicas = [stack.addresses[f"reward-{i}"] for i in range(2)]
        fingerprint = here.server_info().tokenizer_fingerprint
        here.put_profile(USER, [f"{CANARY} Still more of them, please."])  # an earlier revision
        for user_id, text in (("other", OTHERS), (USER, CANARY)):
            here.put_profile(user_id, [text])
            for client in generators:
                for number in range(6):  # until both replicas have seen them, most likely
                    chat = [Message("user", f"Tell me about number {number}.")]
                    client.complete(messages=chat, user_id=user_id, max_tokens=2)
                for prompt in ("x", "y"):
                    client.complete(prompt=prompt, strategy="prompt", user_id=user_id, max_tokens=1)
        # A replica keeps it by raw prompts as by conversations: have both keep both.
        for client in generators:
            for _ in range(6):
                client.complete(prompt="x", user_id=USER, strategy="pad-released", max_tokens=1)
        known = {
            where: cached_by_generator(client, where, user_id=USER)
            for client, where in generators.items()
        }
        subject = subject_of(user_tag("default", USER))
        known |= {
            replica: cached_by_replica(replica, fingerprint, CANARY, subject)
            for replica in replicas
        }
        assert USER.encode() in everything(store)
        assert CANARY.encode() in everything(store)
        assert b"Still more of them" in everything(store)

        here.delete_profile(USER)

        until(lambda: measured(metrics, 'pad_erasures_total{outcome="complete"}') >= 1)
        assert measured(generators[here], 'pad_erasures_total{outcome="complete"}') >= 1
        for client in generators:
            with pytest.raises(NotFoundError):
                client.complete(prompt="x", user_id=USER, max_tokens=1)
        # What others read is kept, what the user read is as new as what nobody ever read.
        for client, where in generators.items():
            unheard = cached_by_generator(client, where, preferences=[CONTROL])
            canary = cached_by_generator(client, where, preferences=[CANARY])
            assert canary <= unheard + 2 < known[where] - 2
            assert cached_by_generator(client, where, preferences=[OTHERS]) > unheard + 5
        forgotten = 0.0
        for number, replica in enumerate(replicas):
            cached_by_replica(replica, fingerprint, OTHERS)  # its guidelines are everybody's
            unheard = cached_by_replica(replica, fingerprint, CONTROL)
            canary = cached_by_replica(replica, fingerprint, CANARY)
            assert canary <= unheard + 2 < known[replica] - 2
            where = stack.metrics_addresses[f"reward-{number}"]
            forgotten += measured(where, "pad_reward_prefix_cache_forgotten_tokens_total")
        assert forgotten > 0

        left = everything(store)
        assert CANARY.encode() not in left
        assert left.count(USER.encode()) == 1  # the tombstone
        (tombstone,) = store.keys(f"*{USER}*")
        assert 0 < store.pttl(tombstone) <= 600_000
        store.pexpire(tombstone, 0)
        assert USER.encode() not in everything(store)
        for log in Path(stack.directory).rglob("*.log"):
            assert "canar" not in log.read_text()
