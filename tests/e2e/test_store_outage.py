"""The profile store stops answering: who brings or has preferences is served, the rest is told."""

import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from pad_client import GeneratorClient, UnavailableError
from pad_client.embedded import EmbeddedStack, StackOptions

PROMPT = {"prompt": "Tell me about the sea.", "max_tokens": 2}


def counted(stack: EmbeddedStack, series: str) -> float:
    address = stack.metrics_addresses["generator"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        found = re.search(rf"^{re.escape(series)} (\S+)$", response.read().decode(), re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does: there is no event to wait on."""
    give_up_at = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


@pytest.mark.slow
def test_requests_go_on_or_fail_clearly_while_redis_is_silent(models_dir: Path) -> None:
    options = StackOptions(
        models_dir=models_dir, generator_environment={"GENERATOR_PROFILE_TTL_S": "0"}
    )
    with EmbeddedStack(options) as stack, GeneratorClient(stack.address) as client:
        client.put_profile("ann", ["Be brief."])
        before = client.complete(user_id="ann", **PROMPT)
        os.kill(stack.pids["redis"], signal.SIGSTOP)
        try:
            assert client.complete(user_id="ann", **PROMPT).text == before.text
            inline = client.complete(preferences=["Be brief."], **PROMPT)
            assert inline.text == before.text
            assert inline.summary.num_guided_tokens == len(inline.tokens)
            for call in (
                lambda: client.complete(user_id="bob", **PROMPT),
                lambda: client.put_profile("ann", ["Be kind."]),
                lambda: client.delete_profile("ann"),
            ):
                with pytest.raises(UnavailableError, match="profile store"):
                    call()
            until(lambda: counted(stack, "pad_profile_store_up") == 0)
        finally:
            os.kill(stack.pids["redis"], signal.SIGCONT)
        for source in ("redis", "stale", "inline", "unavailable"):
            assert counted(stack, f'pad_profile_lookups_total{{source="{source}"}}') >= 1
        for kind in ("silent", "down"):
            assert counted(stack, f'pad_profile_store_failures_total{{kind="{kind}"}}') >= 1
        until(lambda: counted(stack, "pad_profile_store_up") == 1)
        assert client.put_profile("bob", ["Be kind."]).revision == 1
