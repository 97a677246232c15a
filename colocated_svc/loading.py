"""Loads the base model and, beside its weights, the reward model's change of them."""

from pathlib import Path

from colocated_svc.settings import USE_SERVICES
from generator_svc.settings import GeneratorSettings
from reward_svc.model import PersRM, load_pers_rm
from reward_svc.pad_config import Conditioning, read_pad_config
from reward_svc.settings import RewardSettings
from svc_common.lm.adapters import find_adapter
from svc_common.lm.lean_weights import can_be_lean
from svc_common.lm.loading import LoadedModel, ModelFolderError, load_model


def load_both(settings: GeneratorSettings, rewards: RewardSettings) -> tuple[LoadedModel, PersRM]:
    """Return the base model and the reward model, whose backbone it is.

    Raises:
        ModelFolderError: a folder does not hold what is needed, or the two do not share weights.
    """
    _check_adapter(rewards.model_dir, settings.model_dir)
    base = load_model(
        settings.model_dir,
        dtype=settings.dtype,
        device=settings.device,
        context_length=settings.context_length,
        setting="GENERATOR_MODEL_DIR",
    )
    if settings.forward == "transformers" or not can_be_lean(base.model.base_model):
        raise ModelFolderError(
            f"{base.where}: must be run by the lean forward to share its weights, which knows"
            f" Llama, Mistral, Qwen2 and Gemma, got {type(base.model).__name__} with"
            f" GENERATOR_FORWARD={settings.forward}; {USE_SERVICES}"
        )
    model = load_pers_rm(rewards, base)
    if not model.shares_backbone:
        rule = "must change linear layers of the backbone by W + B A and nothing else"
        raise ModelFolderError(f"REWARD_MODEL_DIR={rewards.model_dir}: {rule}; {USE_SERVICES}")
    return base, model


def _check_adapter(folder: Path, base_dir: Path) -> None:
    """Refuse a reward model that is no change of the base model, before anything is loaded."""
    where = f"REWARD_MODEL_DIR={folder}"
    try:
        adapter = find_adapter(folder)
    except ValueError as error:
        raise ModelFolderError(f"{where}: {error}") from error
    rule = f"must hold a LoRA adapter of GENERATOR_MODEL_DIR={base_dir}"
    if adapter is None:
        raise ModelFolderError(f"{where}: {rule}, has no adapter_config.json; {USE_SERVICES}")
    if adapter.base_dir.resolve() != base_dir.resolve():
        raise ModelFolderError(f"{where}: {rule}, is one of {adapter.base_dir}; {USE_SERVICES}")
    conditioning = read_pad_config(folder).conditioning
    if conditioning is not Conditioning.PROMPT:
        rule = "conditioning must be prompt to share the base model's weights"
        raise ModelFolderError(f"{where}: {rule}, got {conditioning.value}; {USE_SERVICES}")
