"""What an operator meets: wrong settings, metrics, lost replicas, drains."""

import os
import re
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pad_client import GeneratorClient, Message, UnavailableError
from pad_client.embedded import EmbeddedStack, StackOptions

CHAT = [Message("user", "I need a bus to Sacramento next Friday.")]
GENERATOR = {
    "GENERATOR_MODEL_DIR": "models/demo-base",
    "GENERATOR_REWARD_TARGETS": "127.0.0.1:1",
    "GENERATOR_REDIS_URL": "unix:///nowhere",
    "GENERATOR_LISTEN": "127.0.0.1:0",
}
REWARD = {"REWARD_MODEL_DIR": "models/demo-persrm", "REWARD_LISTEN": "127.0.0.1:0"}


@pytest.mark.parametrize(
    ("module", "settings", "texts"),
    [
        ("generator_svc", {"GENERATOR_BETA": "1"}, ["GENERATOR_BETA", "no setting"]),
        ("generator_svc", {"GENERATOR_MAX_TOKENS": "x"}, ["GENERATOR_MAX_TOKENS", "'x'"]),
        (
            "generator_svc",
            {"GENERATOR_MODEL_DIR": "tests"},
            ["GENERATOR_MODEL_DIR=tests", "config.json"],
        ),
        (
            "reward_svc",
            {"REWARD_MODEL_DIR": "/nowhere"},
            ["REWARD_MODEL_DIR=/nowhere", "config.json"],
        ),
        ("reward_svc", {"REWARD_NUM_SLOTS": "1"}, ["REWARD_NUM_SLOTS", "2..4096", "got 1"]),
        ("reward_svc", {"REWARD_MODEL_DIR": "models/demo-base"}, ["value_head", "stage1"]),
    ],
)
def test_a_wrong_setting_stops_the_start_with_its_name_rule_and_value(
    module: str, settings: dict[str, str], texts: list[str]
) -> None:
    defaults = GENERATOR if module == "generator_svc" else REWARD
    result = subprocess.run(
        [sys.executable, "-m", module],
        env={**os.environ, **defaults, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2
    message = result.stderr.strip().splitlines()[-1]
    assert all(text in message for text in texts), message
    assert "Traceback" not in result.stderr


def scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        body: str = response.read().decode()
    return body


def value(metrics: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", metrics, re.MULTILINE)
    assert found, f"{series} is not in the scrape"
    return float(found.group(1))


def test_both_services_measure_each_step(stack: EmbeddedStack, client: GeneratorClient) -> None:
    client.put_profile("measured", ["Be brief."])
    answer = client.complete(messages=CHAT, user_id="measured", max_tokens=12)
    generator = scrape(stack.metrics_addresses["generator"])
    reward = scrape(stack.metrics_addresses["reward-0"])
    for phase in ("generator_forward", "reward_wait", "select", "emit"):
        name = f'pad_step_duration_seconds_count{{phase="{phase}"}}'
        assert value(generator, name) >= len(answer.tokens) - 1
    for phase in ("reward_queue", "reward_forward", "reward_select"):
        name = f'pad_step_duration_seconds_count{{phase="{phase}"}}'
        assert value(reward, name) >= len(answer.tokens) - 1
    assert value(generator, 'pad_tokens_total{kind="guided"}') >= len(answer.tokens)
    assert value(generator, 'pad_profile_lookups_total{source="redis"}') >= 1
    assert value(generator, 'pad_sessions{state="active"}') == 0
    for name in (
        "pad_time_to_first_token_seconds",
        "pad_inter_token_latency_seconds",
        "pad_step_batch_rows",
    ):
        assert value(generator, f"{name}_count") >= 1
    assert value(generator, 'pad_queue_time_seconds_count{priority="interactive"}') >= 1
    assert value(generator, 'pad_queue_depth{unit="tokens"}') == 0
    assert value(generator, 'pad_refused_total{reason="queue_requests"}') == 0
    ok = 'pad_rpc_total{code="OK",method="pad.v1.GeneratorService/Complete"}'
    assert value(generator, ok) >= 1
    assert "measured" not in generator  # no user in a label


def test_no_prompt_profile_or_answer_is_logged(
    stack: EmbeddedStack, client: GeneratorClient
) -> None:
    client.complete(
        messages=[Message("user", "canary-prompt")], preferences=["canary-wish"], max_tokens=4
    )
    for log in Path(stack.directory).rglob("*.log"):
        assert "canary" not in log.read_text()


@pytest.mark.slow
def test_a_killed_replica_changes_nothing_but_time(models_dir: Path) -> None:
    options = StackOptions(
        models_dir=models_dir,
        num_reward_replicas=2,
        generator_environment={"GENERATOR_REWARD_OPEN_TIMEOUT_S": "2"},
    )
    jobs = [
        {
            "messages": [Message("user", f"Find me a restaurant for {i} people.")],
            "preferences": ["Be formal and polite."],
            "max_tokens": 60,
            "ignore_end_of_turn": True,
        }
        for i in range(8)
    ]
    with EmbeddedStack(options) as stack, GeneratorClient(stack.address) as client:
        fault_free = [client.complete(**job) for job in jobs]

        def write(job: dict[str, object]) -> list[int]:
            with client.generate(**job) as stream:
                return [token.token_id for token in stream]

        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(write, job) for job in jobs]
            with client.generate(**jobs[0]) as probe:
                next(iter(probe))  # answers are under way
                stack.kill("reward-0")
                assert all(token.guided for token in probe)
            assert [answer.result() for answer in answers] == [
                [token.token_id for token in answer.tokens] for answer in fault_free
            ]
        stack.kill("reward-1")
        with pytest.raises(UnavailableError):
            client.complete(**jobs[0])
        fallen = client.complete(**jobs[0], fallback="unguided")
        assert fallen.summary.num_fallback_tokens == len(fallen.tokens)
        assert not any(token.guided for token in fallen.tokens)


@pytest.mark.slow
def test_sigterm_lets_running_answers_finish(models_dir: Path) -> None:
    with (
        EmbeddedStack(StackOptions(models_dir=models_dir)) as stack,
        GeneratorClient(stack.address) as client,
    ):
        with client.generate(
            messages=CHAT, preferences=["Be brief."], max_tokens=200, ignore_end_of_turn=True
        ) as stream:
            tokens = iter(stream)
            next(tokens)
            stack.terminate("generator")
            assert len(list(tokens)) == 199
        with pytest.raises(UnavailableError):
            client.complete(messages=CHAT)
