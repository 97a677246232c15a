"""A whole stack with its HTTP edge, and the official `openai` client in front of it."""

from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from pad_client import GeneratorClient
from pad_client.embedded import EmbeddedStack, StackOptions, default_models_dir
from tests.edge_svc.edges import metric, until

NUM_SLOTS = 4
MAX_WAITING = 2


@pytest.fixture(scope="session")
def stack() -> Iterator[EmbeddedStack]:
    options = StackOptions(
        models_dir=default_models_dir(),
        has_edge=True,
        generator_environment={
            "GENERATOR_NUM_SLOTS": str(NUM_SLOTS),
            "GENERATOR_MAX_WAITING": str(MAX_WAITING),
            "GENERATOR_MAX_TOKENS": "900",
        },
        edge_environment={"EDGE_MAX_BODY_BYTES": "20000", "EDGE_BODY_TIMEOUT_S": "0.5"},
    )
    with EmbeddedStack(options) as running:
        yield running


@pytest.fixture(scope="session")
def address(stack: EmbeddedStack) -> str:
    return stack.addresses["edge"]


@pytest.fixture(scope="session")
def url(address: str) -> str:
    return f"http://{address}/v1"


@pytest.fixture
def idle(stack: EmbeddedStack) -> Iterator[None]:
    """All rows of the generator are free before and after the test."""
    until(lambda: free_slots(stack) == NUM_SLOTS)
    yield
    until(lambda: free_slots(stack) == NUM_SLOTS)


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="any", max_retries=0, timeout=60) as connected:
        yield connected


@pytest.fixture
async def async_client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=url, api_key="any", max_retries=0, timeout=60
    ) as connected:
        yield connected


@pytest.fixture(scope="session")
def pad(stack: EmbeddedStack) -> Iterator[GeneratorClient]:
    """The project's own client, straight to the generator."""
    with GeneratorClient(stack.address) as connected:
        yield connected


def free_slots(stack: EmbeddedStack) -> int:
    return int(metric(stack.metrics_addresses["generator"], "pad_free_slots"))
