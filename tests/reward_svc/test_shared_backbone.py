"""A LoRA adapter of the reference shares its weights, and computes what the merged model does."""

import dataclasses
from pathlib import Path

import pytest
import torch

from reward_svc.model import PersRM, load_pers_rm
from reward_svc.prompts import REFERENCE, THETA
from reward_svc.settings import RewardSettings
from tests.svc_common.lm.test_adapters import save_adapter
from tests.tiny_model import save_tiny_model

pytest.importorskip("peft")
# peft asks a property of models that transformers is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")


@pytest.fixture
def adapted(settings: RewardSettings, tmp_path: Path) -> RewardSettings:
    """Settings for an adapter and, as its reference, the base it changes."""
    base = save_tiny_model(tmp_path / "base")
    save_adapter(tmp_path / "adapter", "../base")
    return dataclasses.replace(
        settings, model_dir=tmp_path / "adapter", backbone_dir=str(base), value_head="stage1"
    )


@torch.inference_mode()
def hidden_states(model: PersRM) -> torch.Tensor:
    """Return what rows of both groups compute, prompt and two steps: `[2, 3, D]`."""
    runner = model.new_runner(4)
    rows = [runner.open(REFERENCE), runner.open(THETA)]
    first = torch.cat([runner.append(row, [5, 6, 7, 8]) for row in rows])
    steps = [runner.decode(rows, [11, 11]), runner.decode(rows, [12, 12])]
    return torch.stack([first, *steps], dim=1)


def test_a_shared_backbone_gives_what_the_merged_model_gives(adapted: RewardSettings) -> None:
    shared = load_pers_rm(adapted)
    assert shared.network.kind == "lean"
    assert shared.network.split is None
    merged = load_pers_rm(dataclasses.replace(adapted, forward="transformers"))
    assert shared.version == merged.version
    mine, theirs = hidden_states(shared), hidden_states(merged)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert (mine[0] - mine[1]).abs().max() > 0.1  # theta is not the reference


def test_a_forward_that_cannot_run_the_model_is_refused(
    settings: RewardSettings, tmp_path: Path
) -> None:
    folder = save_tiny_model(tmp_path / "gpt2", "gpt2")
    changed = dataclasses.replace(
        settings, model_dir=folder, backbone_dir="", value_head="stage1", forward="lean"
    )
    with pytest.raises(Exception, match=r"REWARD_MODEL_DIR=.*lean forward: does not know GPT2"):
        load_pers_rm(changed)
    assert load_pers_rm(dataclasses.replace(changed, forward="auto")).network.kind == "transformers"
