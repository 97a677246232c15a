"""Settings of both models in one process: `GENERATOR_*`, and of `REWARD_*` what is not shared."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from generator_svc.settings import PREFIX as GENERATOR_PREFIX
from generator_svc.settings import GeneratorSettings
from reward_svc.settings import PREFIX as REWARD_PREFIX
from reward_svc.settings import RewardSettings
from svc_common.settings import SettingsError, load_settings, setting

TARGETS = f"{GENERATOR_PREFIX}REWARD_TARGETS"
REMOTE = [  # settings about a reward model that is elsewhere
    f"{GENERATOR_PREFIX}{name}"
    for name in (
        "REWARD_TARGETS",
        "REWARD_STEP_TIMEOUT_S",
        "REWARD_OPEN_TIMEOUT_S",
        "REWARD_RESOLVE_INTERVAL_S",
        "REWARD_CA_FILE",
        "REWARD_CERT_FILE",
        "REWARD_KEY_FILE",
        "REWARD_SERVER_NAME",
        "REWARD_TOKEN_FILE",
        "RUNS_AHEAD",
    )
]
USE_SERVICES = "run python -m generator_svc and python -m reward_svc instead"


@dataclass(frozen=True)
class AdapterSettings:
    """What of REWARD_* can be chosen; all else is the base model's, as its weights are."""

    model_dir: Path = setting(help="folder of the reward model: a LoRA adapter of the base model")
    backbone_dir: str = setting("", help="empty, or the folder of the base model")
    conditioning: str = setting(
        "auto", choices=("auto", "prompt"), help="how a preference reaches the model"
    )
    value_head: str = setting(
        "auto",
        choices=("auto", "required", "stage1"),
        help="whether the model folder must hold a value head",
    )
    num_slots: int = setting(
        64,
        min=2,
        max=4096,
        help="rows of the KV cache for rewards: an answer takes one a preference, and one for the"
        " reference where the base model does not read the plain prompt",
    )


def load_both_settings(environ: Mapping[str, str]) -> tuple[GeneratorSettings, RewardSettings]:
    """Return the settings of the base model and of the reward model.

    Raises:
        SettingsError: a variable is unknown, missing or out of range, or has no meaning where both
            models are one process.
    """
    for variable in REMOTE:
        if variable in environ:
            rule = f"must not be set, rewards come from this process; else {USE_SERVICES}"
            raise SettingsError(f"{variable}: {rule}")
    settings = load_settings(GeneratorSettings, GENERATOR_PREFIX, {**environ, TARGETS: ""})
    settings = dataclasses.replace(settings, reward_targets=("in-process",))
    own = load_settings(AdapterSettings, REWARD_PREFIX, environ)
    base_dir = settings.model_dir
    if own.backbone_dir and Path(own.backbone_dir).resolve() != base_dir.resolve():
        rule = f"must be empty or {GENERATOR_PREFIX}MODEL_DIR={base_dir}"
        got = f"got {own.backbone_dir}; for another reference {USE_SERVICES}"
        raise SettingsError(f"{REWARD_PREFIX}BACKBONE_DIR: {rule}, {got}")
    return settings, RewardSettings(
        **{**vars(own), "backbone_dir": str(base_dir)},
        dtype=settings.dtype,
        device=settings.device,
        forward=settings.forward,
        num_torch_threads=settings.num_torch_threads,
        context_length=settings.context_length,
        prefill_chunk=settings.prefill_chunk,
        max_prefill_s=settings.max_prefill_s,
        max_prefix_cache_bytes=settings.max_prefix_cache_bytes,
        max_prefix_age_s=settings.max_prefix_age_s,
    )
