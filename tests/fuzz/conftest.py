"""One stack for all tests of this folder, which each leave it as they found it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pad_client.embedded import EmbeddedStack
from tests.fuzz.tiny_stack import tiny_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    folder: Path = tmp_path_factory.mktemp("tiny_models")
    with tiny_stack(folder) as running:
        yield running
