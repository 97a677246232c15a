"""The tiny reward model, loaded from a folder once."""

from pathlib import Path

import pytest
import torch

from reward_svc.model import PersRM, load_pers_rm
from reward_svc.pad_config import Conditioning
from reward_svc.settings import RewardSettings
from tests.reward_svc.oracle import Oracle
from tests.reward_svc.replica import save_conditioned, save_folders


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


@pytest.fixture(scope="session")
def conditioned(
    settings: RewardSettings, tmp_path_factory: pytest.TempPathFactory
) -> dict[Conditioning, RewardSettings]:
    """The same weights with what each conditioning needs."""
    found = {Conditioning.PROMPT: settings}
    for conditioning in (Conditioning.VECTOR, Conditioning.BOTH):
        folder = tmp_path_factory.mktemp(conditioning.value)
        found[conditioning] = save_conditioned(folder, conditioning)
    return found


@pytest.fixture(scope="session")
def models(conditioned: dict[Conditioning, RewardSettings]) -> dict[Conditioning, PersRM]:
    return {conditioning: load_pers_rm(its) for conditioning, its in conditioned.items()}
