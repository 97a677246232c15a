"""A whole stack with its playground, generators that do as told, and a browser before them."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pad_client import GeneratorClient
from pad_client.embedded import EmbeddedStack, StackOptions, default_models_dir
from tests.client.fake_server import FakeServer
from tests.edge_svc.edges import metric, until
from tests.playground_svc.browser import Page, new_driver
from tests.playground_svc.playgrounds import FakeGenerator, running_playground

NUM_SLOTS = 4


@pytest.fixture(scope="session")
def stack() -> Iterator[EmbeddedStack]:
    options = StackOptions(
        models_dir=default_models_dir(),
        has_playground=True,
        generator_environment={
            "GENERATOR_NUM_SLOTS": str(NUM_SLOTS),
            # A test stops the reward service for as long as it wishes.
            "GENERATOR_REWARD_STEP_TIMEOUT_S": "60",
            "GENERATOR_REWARD_OPEN_TIMEOUT_S": "60",
        },
        playground_environment={"PLAYGROUND_MAX_BODY_BYTES": "100000"},
    )
    with EmbeddedStack(options) as running:
        yield running


@pytest.fixture(scope="session")
def address(stack: EmbeddedStack) -> str:
    return stack.addresses["playground"]


@pytest.fixture(scope="session")
def pad(stack: EmbeddedStack) -> Iterator[GeneratorClient]:
    """The project's own client, straight to the generator."""
    with GeneratorClient(stack.address) as connected:
        yield connected


def free_slots(stack: EmbeddedStack) -> int:
    return int(metric(stack.metrics_addresses["generator"], "pad_free_slots"))


@pytest.fixture
def idle(stack: EmbeddedStack) -> Iterator[None]:
    """All rows of the generator are free before and after the test."""
    until(lambda: free_slots(stack) == NUM_SLOTS)
    yield
    until(lambda: free_slots(stack) == NUM_SLOTS)


@pytest.fixture
def before() -> Iterator[Callable[[FakeServer], tuple[FakeGenerator, str]]]:
    """Put a playground before a fake generator, and return both."""
    with ExitStack() as stack:

        def start(server: FakeServer) -> tuple[FakeGenerator, str]:
            fake = stack.enter_context(FakeGenerator(server))
            _, address = stack.enter_context(running_playground(fake.address))
            return fake, address

        yield start


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser for the whole session: its start takes longest."""
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    driver = new_driver(*(Path(str(path)) for path in paths), tmp_path_factory.mktemp("chromium"))
    try:
        yield Page(driver)
    finally:
        driver.quit()


@pytest.fixture
def page(chromium: Page) -> Iterator[Page]:
    """A browser as it is before a visit; after it, its console has nothing to complain of."""
    chromium.reset()
    yield chromium
    assert chromium.complaints() == []


@pytest.fixture
def stopped_rewards(stack: EmbeddedStack) -> Iterator[Callable[[], None]]:
    """Let a test stop the reward service, so that guided answers wait until its end."""
    pid = stack.pids["reward-0"]
    yield lambda: os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def fakes() -> Iterator[dict[str, Any]]:
    """A generator that fails as told, and the playground before it."""
    with FakeGenerator(FakeServer()) as fake, running_playground(fake.address) as (_, address):
        yield {"server": fake.server, "fake": fake, "address": address}
