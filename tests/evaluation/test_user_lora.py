"""A user's own adapter learns from the user's pairs, and is kept."""

from pathlib import Path

import pytest
import torch

from evaluation.models import load_language_model
from evaluation.user_lora import UserLoraConfig, adapter_folder, read_figures, user_model
from svc_common.preference_prompt import ChatMessage
from tests.tiny_model import save_tiny_model
from training.pair_file import Pair

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
PAIRS = [
    Pair((ChatMessage("user", f"Hi {number}."),), "Agree.", "yes", f"no {number}")
    for number in range(60)
]
CONFIG = UserLoraConfig(
    num_pairs=40, num_held_out=20, rank=4, alpha=8, learning_rate=3e-2, tokens_per_batch=100
)


def test_training_lowers_the_loss_on_pairs_it_has_not_seen(tmp_path: Path) -> None:
    base_folder = save_tiny_model(tmp_path / "base")
    base = load_language_model(base_folder)
    folder = adapter_folder(tmp_path, "brevity:short", base, CONFIG)
    model = user_model(base_folder, base, PAIRS, folder, CONFIG)
    figures = read_figures(folder)
    assert figures["loss_after"] < 0.5 * figures["loss_before"]
    assert figures["num_pairs"] == 40
    assert figures["accuracy"] > 0.9
    assert figures["num_parameters"] > 0
    assert model.weights != base.weights


def test_the_same_seed_trains_the_same_and_a_kept_adapter_is_not_trained_again(
    tmp_path: Path,
) -> None:
    base_folder = save_tiny_model(tmp_path / "base")
    base = load_language_model(base_folder)
    one = user_model(base_folder, base, PAIRS, tmp_path / "adapters/one", CONFIG)
    torch.manual_seed(99)
    two = user_model(base_folder, base, PAIRS, tmp_path / "adapters/two", CONFIG)
    kept = user_model(base_folder, base, [], tmp_path / "adapters/one", CONFIG)
    assert one.weights == two.weights == kept.weights


def test_other_settings_have_another_folder(tmp_path: Path) -> None:
    base = load_language_model(save_tiny_model(tmp_path / "base"))
    names = {
        adapter_folder(tmp_path, user, base, UserLoraConfig(rank=rank))
        for user in ("brevity:short", "brevity:long")
        for rank in (4, 8)
    }
    assert len(names) == 4
