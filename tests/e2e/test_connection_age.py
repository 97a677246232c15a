"""Connections that the generator ends by their age: callers notice nothing."""

import re
import time
import urllib.request
from pathlib import Path

from pad_client import GeneratorClient
from pad_client.embedded import EmbeddedStack, StackOptions

AGE_S = 0.5
NUM_TOKENS = 600


def rpcs(stack: EmbeddedStack) -> dict[str, float]:
    """Return how many RPCs of the generator ended with which status."""
    url = f"http://{stack.metrics_addresses['generator']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as page:
        lines = page.read().decode()
    found = re.findall(r'^pad_rpc_total\{code="(\w+)",method="pad\.v1[^}]*\} (\S+)$', lines, re.M)
    counts: dict[str, float] = {}
    for code, count in found:
        counts[code] = counts.get(code, 0.0) + float(count)
    return counts


def test_a_client_goes_on_over_new_connections_and_its_long_answer_over_the_old(
    models_dir: Path,
) -> None:
    settings = {"GENERATOR_MAX_CONNECTION_AGE_S": str(AGE_S), "GENERATOR_MAX_TOKENS": "900"}
    options = StackOptions(models_dir=models_dir, generator_environment=settings)
    with EmbeddedStack(options) as stack, GeneratorClient(stack.address) as client:
        stream = client.generate(
            prompt="a", max_tokens=NUM_TOKENS, ignore_end_of_turn=True, strategy="base"
        )
        with stream:
            next(stream)
            give_up_at = time.monotonic() + 6 * AGE_S
            num_calls = 0
            while time.monotonic() < give_up_at:
                client.server_info()
                num_calls += 1
            assert sum(1 for _ in stream) == NUM_TOKENS - 1
        assert num_calls > 20
        assert set(rpcs(stack)) == {"OK"}
