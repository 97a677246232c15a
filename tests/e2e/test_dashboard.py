"""Every panel, recording and alert has data in a real Prometheus after a real load."""

import json
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from pad_client import GeneratorClient, Message, PadError
from pad_client.embedded import EmbeddedStack, StackOptions
from tests.deploy.test_prometheus import dashboard_expressions

DEPLOY = Path(__file__).parents[2] / "deploy"
HELLO = [Message("user", "I need a table for two people in San Jose.")]
SAY: Any = [{"role": "user", "content": HELLO[0].content}]
WAIT_S = 90.0


def load(client: GeneratorClient, stopped: threading.Event) -> None:
    """Ask for everything that is counted apart, again and again; failures are counted too."""
    client.put_profile("ann", ["Be brief."])
    asks: list[dict[str, Any]] = [
        {"strategy": "base"},
        {"user_id": "ann"},
        {"preferences": ["Sound excited!", "Be brief."], "temperature": 0.7, "seed": 1},
        {"user_id": "nobody"},
        {"preferences": ["Be brief."], "fallback": "unguided"},
    ]
    with ThreadPoolExecutor(8) as pool:
        while not stopped.is_set():
            list(pool.map(lambda ask: _ask(client, ask), asks * 2))


def _ask(client: GeneratorClient, ask: dict[str, Any]) -> None:
    with suppress(PadError):
        client.complete(messages=HELLO, max_tokens=12, ignore_end_of_turn=True, **ask)


def load_edge(address: str, stopped: threading.Event) -> None:
    """Ask over HTTP for what is counted apart: answers, refusals, errors, broken streams."""
    late = {"pad": {"timeout_s": 0.2, "ignore_end_of_turn": True}}
    asks: list[dict[str, Any]] = [
        {"max_tokens": 8},
        {"max_tokens": 8, "stream": True},
        {"max_tokens": 400, "extra_body": late},
        {"max_tokens": 400, "extra_body": late, "stream": True},
        {"max_tokens": 0},
    ]
    url = f"http://{address}/v1"
    with (
        openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client,
        ThreadPoolExecutor(len(asks)) as pool,
    ):
        while not stopped.is_set():
            list(pool.map(lambda ask: _ask_edge(client, ask), asks))


def _ask_edge(client: openai.OpenAI, ask: dict[str, Any]) -> None:
    with suppress(openai.OpenAIError):
        answer: Any = client.chat.completions.create(model="demo-base", messages=SAY, **ask)
        if ask.get("stream"):
            list(answer)


@contextmanager
def loaded_stack(models_dir: Path) -> Iterator[EmbeddedStack]:
    options = StackOptions(
        models_dir=models_dir,
        num_reward_replicas=2,
        has_edge=True,
        reward_environment={"REWARD_NUM_SLOTS": "4"},  # some sessions find no room
        edge_environment={"EDGE_MAX_REQUESTS": "4"},  # so do some requests
    )
    stopped = threading.Event()
    with EmbeddedStack(options) as stack, GeneratorClient(stack.address) as client:
        loads = [
            threading.Thread(target=load, args=(client, stopped)),
            threading.Thread(target=load_edge, args=(stack.addresses["edge"], stopped)),
        ]
        for loading in loads:
            loading.start()
        try:
            yield stack
        finally:
            stopped.set()
            for loading in loads:
                loading.join()


@contextmanager
def prometheus(folder: Path, stack: EmbeddedStack) -> Iterator[str]:
    """Run Prometheus as deployed, but faster and on these addresses; yield its own."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("needs prometheus")
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / name) for name in config["rule_files"]]
    places = stack.metrics_addresses
    config["scrape_configs"] = [
        {
            "job_name": job,
            "static_configs": [{"targets": [a for n, a in places.items() if job in n]}],
        }
        for job in ("generator", "reward", "edge")
    ]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        binary,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def ask(address: str, path: str, **parameters: str) -> Any:
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"http://{address}/api/v1/{path}?{query}", timeout=10) as response:
        return json.load(response)["data"]


def missing(address: str, expressions: list[str]) -> list[str]:
    """Return the expressions that give no number now."""
    found = []
    for expression in expressions:
        asked = expression.replace("$__rate_interval", "30s")
        result = ask(address, "query", query=asked)["result"]
        if not any(series["value"][1] != "NaN" for series in result):
            found.append(expression)
    return found


def unhealthy(address: str) -> list[str]:
    """Return the rules that were not evaluated, or could not be."""
    groups = ask(address, "rules")["groups"]
    return [
        f"{rule['name']}: {rule.get('lastError', rule['health'])}"
        for group in groups
        for rule in group["rules"]
        if rule["health"] != "ok"
    ]


def until_empty(find: Callable[[], list[str]]) -> list[str]:
    """Return what is still found after a while, or nothing."""
    give_up_at = time.monotonic() + WAIT_S
    while True:
        with suppress(OSError):  # Prometheus starts
            found = find()
            if not found or time.monotonic() > give_up_at:
                return found
        assert time.monotonic() < give_up_at, "Prometheus does not answer"
        time.sleep(0.5)  # Prometheus offers no event to wait on


@pytest.mark.slow
def test_every_panel_has_data_and_every_rule_works(models_dir: Path, tmp_path: Path) -> None:
    with loaded_stack(models_dir) as stack, prometheus(tmp_path, stack) as address:
        recorded = [
            rule["record"]
            for group in yaml.safe_load((DEPLOY / "recording.yml").read_text())["groups"]
            for rule in group["rules"]
        ]
        expressions = [*dashboard_expressions(), *recorded]
        assert until_empty(lambda: missing(address, expressions)) == []
        assert until_empty(lambda: unhealthy(address)) == []
