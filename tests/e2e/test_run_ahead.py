"""Running ahead in the whole stack: the same answers, and tokens that were not waited for."""

import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pad_client import GeneratorClient, Message
from pad_client.embedded import EmbeddedStack, StackOptions

WISHES = ("Be brief.", "Sound excited!", "Be formal and polite.", "Keep it casual and relaxed.")
LONG = {"beta": 0.1, "max_tokens": 100, "ignore_end_of_turn": True}  # most guesses are right


def jobs() -> list[dict[str, Any]]:
    return [
        {
            "messages": [Message("user", f"I need a table for {i + 2} people in San Jose.")],
            "preferences": [WISHES[i % 4]] if i % 3 else [WISHES[0], WISHES[1]],
            "beta": 0.1 + i / 5,
            "temperature": 0.0 if i % 2 else 0.8,
            "seed": i,
            "top_k": 3 + i,
            "max_tokens": 20 + 5 * i,
        }
        for i in range(6)
    ]


def write(models_dir: Path, *, runs_ahead: bool) -> tuple[list[list[tuple[int, bool]]], int]:
    """Return all answers, one after the other and then at once, and how many guesses held."""
    options = StackOptions(
        models_dir=models_dir,
        generator_environment={"GENERATOR_RUNS_AHEAD": str(runs_ahead).lower()},
    )

    def ids(job: dict[str, Any]) -> list[tuple[int, bool]]:
        return [(token.token_id, token.guided) for token in client.complete(**job).tokens]

    with EmbeddedStack(options) as stack, GeneratorClient(stack.address) as client:
        answers = [ids({**job, **LONG}) for job in jobs()[:2]]
        answers += [ids(job) for job in jobs()]
        with ThreadPoolExecutor(6) as pool:
            answers += pool.map(ids, jobs())
        address = stack.metrics_addresses["generator"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
            metrics = response.read().decode()
    kept = re.search(r'^pad_run_ahead_tokens_total{outcome="kept"} (\S+)$', metrics, re.MULTILINE)
    return answers, int(float(kept.group(1))) if kept else 0


@pytest.mark.slow
def test_answers_are_the_same_with_and_without_running_ahead(models_dir: Path) -> None:
    expected, num_kept = write(models_dir, runs_ahead=False)
    assert num_kept == 0
    answers, num_kept = write(models_dir, runs_ahead=True)
    assert answers == expected
    assert num_kept > 20
