"""The pair's folders, written once."""

from pathlib import Path

import pytest
import torch

from tests.colocated_svc.pair import save_pair


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Tiny tensors on several threads take three times as long, mostly waiting."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder: Path = tmp_path_factory.mktemp("pair")
    return save_pair(folder)
