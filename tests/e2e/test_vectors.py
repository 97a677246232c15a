"""Preferences as vectors, through both services and Redis."""

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import redis
import torch
from torch import nn

from pad_client import GeneratorClient, Message
from pad_client.embedded import EmbeddedStack, StackOptions
from reward_svc.preference_head import PreferenceHead, save_preference_head
from tests.e2e.naive_pad import Chat, NaivePad

K = 10
NUM_TOKENS = 16
BRIEF, EXCITED = "Be brief.", "Sound excited!"
PROMPTS: list[Chat] = json.loads((Path(__file__).parent / "parity_prompts.json").read_text())[:4]

pytestmark = pytest.mark.slow


def conditioned(models_dir: Path, folder: Path, conditioning: str, seed: int = 11) -> Path:
    """Copy the demo models and give the reward model a random head for this conditioning."""
    (folder / "demo-base").symlink_to((models_dir / "demo-base").resolve())
    theta = Path(shutil.copytree(models_dir / "demo-persrm", folder / "demo-persrm"))
    (theta / "pad_config.json").write_text(json.dumps({"stage": 2, "conditioning": conditioning}))
    hidden = json.loads((theta / "config.json").read_text())["hidden_size"]
    torch.manual_seed(seed)
    head = PreferenceHead(hidden, hidden, 32)
    nn.init.normal_(head.input.weight, std=0.3)  # far enough apart for wishes told in few words
    nn.init.normal_(head.output.weight, std=0.05)
    save_preference_head(head, theta / f"{conditioning}_head.safetensors")
    return folder


@pytest.fixture(scope="module", params=["vector", "both"])
def conditioned_dir(
    request: pytest.FixtureRequest, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return conditioned(models_dir, tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def naive(conditioned_dir: Path) -> NaivePad:
    return NaivePad(conditioned_dir / "demo-base", conditioned_dir / "demo-persrm")


@pytest.fixture(scope="module")
def vector_stack(conditioned_dir: Path) -> Iterator[EmbeddedStack]:
    options = StackOptions(models_dir=conditioned_dir, num_reward_replicas=2)
    with EmbeddedStack(options) as running:
        yield running


@pytest.fixture(scope="module")
def vector_client(vector_stack: EmbeddedStack) -> Iterator[GeneratorClient]:
    with GeneratorClient(vector_stack.address) as connected:
        yield connected


def served(client: GeneratorClient, chat: Chat, **options: object) -> list[int]:
    messages = [Message(turn["role"], turn["content"]) for turn in chat]
    answer = client.complete(
        messages=messages, top_k=K, max_tokens=NUM_TOKENS, temperature=0.0, **options
    )
    return [token.token_id for token in answer.tokens]


def kept_encodings(stack: EmbeddedStack) -> list[dict[bytes, bytes]]:
    path = stack.addresses["redis"].removeprefix("unix://")
    with redis.Redis(unix_socket_path=path) as client:
        keys = client.keys("pad:v1:enc:*")
        return [client.hgetall(key) for key in keys if client.type(key) == b"hash"]


def num_prompt_tokens(stack: EmbeddedStack) -> float:
    """Return how many tokens of reward prompts all replicas have seen."""
    total = 0.0
    for name, address in stack.metrics_addresses.items():
        if name.startswith("reward"):
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
                text = response.read().decode()
            found = re.findall(r"^pad_reward_prompt_tokens_total\{.*\} (\S+)$", text, re.MULTILINE)
            total += sum(map(float, found))
    return total


def test_swapping_a_users_preference_swaps_a_vector_kept_in_redis(
    vector_stack: EmbeddedStack, vector_client: GeneratorClient, naive: NaivePad
) -> None:
    answers: list[list[list[int]]] = []
    seen = [num_prompt_tokens(vector_stack)]
    for preference in (BRIEF, EXCITED, BRIEF):
        vector_client.put_profile("swapped", [preference])
        answers.append([])
        for chat in PROMPTS[:3]:
            answers[-1].append(served(vector_client, chat, user_id="swapped"))
            expected, gap = naive.generate("pad", chat, preference, 1.0, K, NUM_TOKENS)
            assert gap > 1e-5, "a tie: choose another prompt, rounding decides this one"
            assert answers[-1][-1] == expected
        seen.append(num_prompt_tokens(vector_stack))
        if len(answers) < 3:  # what was replaced just now is not kept again for a minute
            (kept,) = kept_encodings(vector_stack)
            (encoding,) = kept.values()  # of one version of the reward model
            vector = torch.cat(naive.vector(preference)).numpy()
            np.testing.assert_allclose(np.frombuffer(encoding, "<f4"), vector, atol=1e-4)
    assert answers[0] == answers[2] != answers[1]
    if naive.conditioning == "vector":  # theta reads the same, whatever the preference
        assert len(set(np.diff(seen))) == 1


@pytest.mark.parametrize("preference", [BRIEF, EXCITED])
def test_served_tokens_equal_the_written_out_method(
    vector_client: GeneratorClient, naive: NaivePad, preference: str
) -> None:
    num_changed = 0
    for chat in PROMPTS:
        base = served(vector_client, chat, strategy="base")
        for rule, beta in (("pad", 1.0), ("pad", 0.0), ("pad-released", 1.0)):
            tokens, gap = naive.generate(rule, chat, preference, beta, K, NUM_TOKENS)
            assert gap > 1e-5, "a tie: choose another prompt, rounding decides this one"
            options = {"strategy": rule, "preferences": [preference], "beta": beta}
            answer = served(vector_client, chat, **options)
            assert answer == tokens, (rule, beta, chat)
            num_changed += answer != base
    assert num_changed >= len(PROMPTS) // 2


def test_a_killed_replica_and_a_lost_store_change_no_token(
    vector_stack: EmbeddedStack, vector_client: GeneratorClient
) -> None:
    """The last test of the module's stack: what it breaks stays broken."""
    jobs = [
        {
            "messages": [Message("user", f"Find me a restaurant for {i} people.")],
            "preferences": [BRIEF, EXCITED, "Be formal and polite."],
            "max_tokens": 50,
            "ignore_end_of_turn": True,
        }
        for i in range(4)
    ]

    def write(job: dict[str, object]) -> list[int]:
        return [token.token_id for token in vector_client.complete(**job).tokens]

    fault_free = [write(job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(write, job) for job in jobs]
        with vector_client.generate(**jobs[0]) as probe:
            next(iter(probe))  # answers are under way
            vector_stack.kill("reward-0")
            assert all(token.guided for token in probe)
        assert [answer.result() for answer in answers] == fault_free
    vector_stack.kill("redis")
    assert write(jobs[0]) == fault_free[0]
