"""The tiny reward model, loaded from a folder once."""

from pathlib import Path

import pytest
import torch

from reward_svc.model import PersRM, load_pers_rm
from reward_svc.settings import RewardSettings
from tests.reward_svc.oracle import Oracle
from tests.reward_svc.replica import save_folders


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Tiny tensors on several threads take three times as long, mostly waiting."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RewardSettings:
    folder: Path = tmp_path_factory.mktemp("reward_model")
    return save_folders(folder)


@pytest.fixture(scope="session")
def model(settings: RewardSettings) -> PersRM:
    return load_pers_rm(settings)


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    return Oracle.of()
