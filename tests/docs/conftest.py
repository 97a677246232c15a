"""A running stack with everything that pages talk to."""

from collections.abc import Iterator

import pytest

from pad_client.embedded import EmbeddedStack, StackOptions


@pytest.fixture(scope="package")
def stack() -> Iterator[EmbeddedStack]:
    with EmbeddedStack(StackOptions(has_edge=True)) as running:
        yield running
