"""More than can be written: who is refused and how, who begins first, what leaves the queue."""

import asyncio
import re
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pad_client import (
    AsyncGeneratorClient,
    AsyncTokenStream,
    Completion,
    DeadlineExceededError,
    OverloadedError,
)
from pad_client.embedded import EmbeddedStack, StackOptions

LONG = 900  # tokens of an answer that holds the only slot for as long as a test needs
MAX_WAITING = 9
TOKENS_PER_MINUTE = 5000


@pytest.fixture(scope="module")
def narrow(models_dir: Path) -> Iterator[EmbeddedStack]:
    """A stack with one slot, a short queue and a tenant's limit above both."""
    settings = {
        "GENERATOR_NUM_SLOTS": "1",
        "GENERATOR_MAX_TOKENS": str(LONG),
        "GENERATOR_MAX_WAITING": str(MAX_WAITING),
        "GENERATOR_TENANT_TOKENS_PER_MINUTE": str(TOKENS_PER_MINUTE),
    }
    options = StackOptions(models_dir=models_dir, generator_environment=settings)
    with EmbeddedStack(options) as running:
        yield running


@asynccontextmanager
async def occupied(stack: EmbeddedStack) -> AsyncIterator[AsyncGeneratorClient]:
    """Hold the only slot with a long answer while the body runs."""
    async with AsyncGeneratorClient(stack.address) as client:
        stream: AsyncTokenStream = client.generate(
            prompt="a", max_tokens=LONG, ignore_end_of_turn=True
        )
        async with stream:
            await anext(stream)
            yield client


def metric(stack: EmbeddedStack, series: str) -> float:
    address = stack.metrics_addresses["generator"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        found = re.search(rf"^{re.escape(series)} (\S+)$", page.read().decode(), re.MULTILINE)
    assert found, f"{series} is not in the scrape"
    return float(found.group(1))


async def until_depth(stack: EmbeddedStack, depth: int) -> None:
    async with asyncio.timeout(20):
        while await asyncio.to_thread(metric, stack, 'pad_queue_depth{unit="requests"}') != depth:
            pass


async def test_the_excess_is_refused_with_a_delay_and_the_rest_is_written(
    narrow: EmbeddedStack,
) -> None:
    series = 'pad_refused_total{reason="queue_requests"}'
    before = metric(narrow, series)
    async with occupied(narrow) as client:
        calls = [client.complete(prompt=f"p{i}", max_tokens=4) for i in range(MAX_WAITING + 4)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [its for its in results if isinstance(its, OverloadedError)]
    assert len(refused) == 4, results
    assert all(isinstance(its, Completion | OverloadedError) for its in results)
    for error in refused:
        assert error.message.startswith(f"queue: at most {MAX_WAITING} requests may wait")
        assert error.retry_after_s is not None
        assert 0 < error.retry_after_s <= 60
    assert metric(narrow, series) - before == 4
    assert metric(narrow, 'pad_queue_depth{unit="tokens"}') == 0


async def test_a_tenants_limit_is_named_with_the_time_until_it_allows_more(
    narrow: EmbeddedStack,
) -> None:
    series = 'pad_refused_total{reason="tenant_tokens"}'
    async with occupied(narrow) as client:
        calls = [
            asyncio.create_task(client.complete(prompt="a", max_tokens=512))
            for _ in range(MAX_WAITING)
        ]
        done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
        for call in waiting:
            call.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    [error, *_] = [call.exception() for call in done]
    assert isinstance(error, OverloadedError)
    assert error.message.startswith(f"tokens_per_minute: this tenant may use {TOKENS_PER_MINUTE}")
    assert error.retry_after_s is not None
    assert 0 < error.retry_after_s <= 60
    assert metric(narrow, series) >= 1


async def test_batch_begins_after_interactive_whatever_came_first(narrow: EmbeddedStack) -> None:
    ended: list[str] = []

    async def ask(client: AsyncGeneratorClient, priority: str) -> None:
        await client.complete(prompt="a", max_tokens=4, priority=priority)
        ended.append(priority)

    async with occupied(narrow) as client:
        tasks = [asyncio.create_task(ask(client, "batch")) for _ in range(2)]
        await until_depth(narrow, 2)
        tasks += [asyncio.create_task(ask(client, "interactive")) for _ in range(3)]
        await asyncio.gather(*tasks)
    assert ended == ["interactive"] * 3 + ["batch"] * 2


async def test_a_waiting_request_leaves_the_queue_at_its_deadline(narrow: EmbeddedStack) -> None:
    async with occupied(narrow) as client:
        with pytest.raises(DeadlineExceededError):
            await client.complete(prompt="a", max_tokens=4, timeout_s=0.3)
        await until_depth(narrow, 0)
        assert metric(narrow, 'pad_sessions{state="active"}') == 1


async def test_priority_changes_no_token(narrow: EmbeddedStack) -> None:
    async with AsyncGeneratorClient(narrow.address) as client:
        answers = [
            await client.complete(
                prompt="Tell me", max_tokens=12, seed=3, temperature=1.0, priority=priority
            )
            for priority in ("interactive", "batch", None)
        ]
    assert len({answer.text for answer in answers}) == 1
