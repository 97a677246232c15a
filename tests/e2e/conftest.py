"""A running stack: both services and a Redis-protocol server as real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pad_client import GeneratorClient
from pad_client.embedded import EmbeddedStack, StackOptions, default_models_dir


@pytest.fixture(scope="session")
def models_dir() -> Path:
    return default_models_dir()


@pytest.fixture(scope="session")
def stack(models_dir: Path) -> Iterator[EmbeddedStack]:
    """The embedded default with the bundled demo models, shared by all tests that do it no harm."""
    with EmbeddedStack(StackOptions(models_dir=models_dir)) as running:
        yield running


@pytest.fixture(scope="session")
def client(stack: EmbeddedStack) -> Iterator[GeneratorClient]:
    with GeneratorClient(stack.address) as connected:
        yield connected
