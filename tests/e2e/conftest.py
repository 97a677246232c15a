"""A running stack: both services and a Redis-protocol server as real processes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pad_client import GeneratorClient
from pad_client.embedded import EmbeddedStack, StackOptions, default_models_dir
from tests.conftest import RedisServer
from tests.e2e.secured import Secured, secured_stack


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


@pytest.fixture(scope="package")
def secured(
    models_dir: Path,
    new_redis_server: Callable[[], RedisServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Secured]:
    """Both services with TLS, tokens and two tenants, shared by all tests of who may call."""
    folder = tmp_path_factory.mktemp("secured")
    with secured_stack(folder, models_dir, new_redis_server().url) as running:
        yield running
