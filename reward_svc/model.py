"""The reward model: trained weights and frozen reference, ready to run in one forward."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from reward_svc.pad_config import Conditioning, read_pad_config
from reward_svc.preference_encoders import BackboneEncoder
from reward_svc.preference_vectors import PreferenceVectors, load_preference_vectors
from reward_svc.settings import RewardSettings
from reward_svc.value_head import file_digest, load_value_head, value_head_path
from svc_common.errors import InvalidRequestError
from svc_common.lm.adapters import LowRank
from svc_common.lm.head import Head, ValueHead
from svc_common.lm.lean_weights import can_be_lean
from svc_common.lm.loading import (
    DTYPES,
    LoadedModel,
    ModelFolderError,
    check_device,
    load_adapter_on,
    load_model,
)
from svc_common.lm.networks import Network
from svc_common.lm.runner import SlotRunner
from svc_common.lm.tokenizer import Tokenizer
from svc_common.settings import SettingsError

logger = logging.getLogger(__name__)

# Say where a model came from or how it is used, not what it computes.
_NEUTRAL_CONFIG = frozenset(
    ["_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache"]
)


@dataclass(frozen=True)
class PersRM:
    """PAD's personalised reward model.

    `heads` has one entry a row group: `THETA`, and `REFERENCE` if the backbone is loaded. `vectors`
    is there if the conditioning needs it. With `shares_backbone` theta is a change of low rank to
    the backbone's weights, which are there once. `reference_fingerprint` is
    empty without a backbone.
    """

    network: Network
    heads: tuple[Head, ...]
    tokenizer: Tokenizer
    context_length: int
    device: torch.device
    model_id: str
    version: str
    conditioning: Conditioning
    vectors: PreferenceVectors | None
    shares_backbone: bool = False
    reference_fingerprint: str = ""

    @property
    def has_reference(self) -> bool:
        return len(self.heads) == 2

    @property
    def vocabulary_size(self) -> int:
        return self.heads[0].vocabulary_size

    def check_length(self, field: str, num_tokens: int) -> None:
        """Refuse what is longer than the context.

        Raises:
            InvalidRequestError: It is.
        """
        if num_tokens > self.context_length:
            rule = f"must have at most {self.context_length} tokens with its reward prompt"
            raise InvalidRequestError(f"{field}: {rule}, got {num_tokens}")

    def new_runner(self, num_slots: int) -> SlotRunner:
        """Return a KV cache of `num_slots` rows with the forward that fills it."""
        return self.network.new_runner(num_slots)


def load_pers_rm(settings: RewardSettings, reference: LoadedModel | None = None) -> PersRM:
    """Load the reward model and, if one is named, its backbone.

    Args:
        settings: Say what to load.
        reference: The backbone, if it is loaded already from the folder in `settings`.

    Raises:
        ModelFolderError: A folder does not hold what is needed, or the two do not belong together.
        SettingsError: The device is not there, or two settings contradict each other.
    """
    check_device("REWARD_DEVICE", settings.device)
    conditioning = _conditioning(settings)
    loaded, reference, low_rank = _load_both(settings, conditioning, reference)
    hidden_size = loaded.model.config.hidden_size
    value_head = _value_head(settings, conditioning, hidden_size)
    heads = [loaded.head(value_head)]
    if reference is not None:
        heads.append(reference.head())
    second = None if low_rank else reference
    network = loaded.network(settings.forward, second=second, low_rank=low_rank)
    logger.info(
        "reward model loaded",
        extra={
            "model_id": loaded.model_id,
            "forward": network.kind,
            "shares_backbone": bool(low_rank),
        },
    )
    own = BackboneEncoder(
        network.backbone,
        loaded.tokenizer,
        split=network.split,
        max_tokens=network.context_length,
    )
    vectors = load_preference_vectors(
        settings.model_dir, conditioning, own, hidden_size, settings.device
    )
    return PersRM(
        network=network,
        heads=tuple(heads),
        tokenizer=loaded.tokenizer,
        context_length=network.context_length,
        device=next(loaded.model.parameters()).device,
        model_id=loaded.model_id,
        version=_version(loaded, settings.model_dir, value_head, vectors),
        conditioning=conditioning,
        vectors=vectors,
        shares_backbone=bool(low_rank),
        reference_fingerprint=reference.fingerprint_with(loaded.tokenizer) if reference else "",
    )


def _load_both(
    settings: RewardSettings, conditioning: Conditioning, reference: LoadedModel | None
) -> tuple[LoadedModel, LoadedModel | None, dict[str, LowRank] | None]:
    """Return theta, its reference if one is named, and theta's changes where both share weights.

    An adapter of the reference itself need not be merged: its rows add a change of low rank to the
    weights that are read once for both. (Vectors are made by theta's own backbone, so it must be.)
    """
    if not settings.backbone_dir:
        return _load(settings, settings.model_dir, "REWARD_MODEL_DIR"), None, None
    backbone_dir = Path(settings.backbone_dir)
    reference = reference or _load(settings, backbone_dir, "REWARD_BACKBONE_DIR")
    can_share = settings.forward != "transformers" and can_be_lean(reference.model.base_model)
    if can_share and conditioning is Conditioning.PROMPT:
        shared = load_adapter_on(reference, backbone_dir, settings.model_dir, "REWARD_MODEL_DIR")
        if shared is not None:
            _check_pair(shared[0], reference, backbone_dir)
            return shared[0], reference, shared[1]
    loaded = _load(settings, settings.model_dir, "REWARD_MODEL_DIR")
    _check_pair(loaded, reference, backbone_dir)
    return loaded, reference, None


def _conditioning(settings: RewardSettings) -> Conditioning:
    """Return how preferences reach the model: as the setting says, else the folder."""
    said = read_pad_config(settings.model_dir).conditioning
    name = settings.conditioning
    return said if name == "auto" else Conditioning(name)


def _value_head(
    settings: RewardSettings, conditioning: Conditioning, hidden_size: int
) -> ValueHead | None:
    """Return the value head, which belongs to conditioning `prompt` alone."""
    if conditioning is not Conditioning.PROMPT:
        if settings.value_head == "required":
            rule = f"must be auto or stage1 with conditioning {conditioning.value}"
            raise SettingsError(f"REWARD_VALUE_HEAD: {rule}, got required")
        return None
    head = load_value_head(settings.model_dir, hidden_size, settings.value_head)
    if head is None:
        return None
    device, dtype = settings.device, DTYPES[settings.dtype]
    return ValueHead(head.weight.to(device, dtype), head.bias.to(device, dtype))


def _load(settings: RewardSettings, folder: Path, setting: str) -> LoadedModel:
    return load_model(
        folder,
        dtype=settings.dtype,
        device=settings.device,
        context_length=settings.context_length,
        setting=setting,
    )


def _check_pair(loaded: LoadedModel, reference: LoadedModel, backbone_dir: Path) -> None:
    """Refuse a backbone that is not the reward model's own kind.

    Both run under the reward model's configuration, so any difference in it would change the
    reference's numbers without a sign.
    """
    where = f"REWARD_BACKBONE_DIR={backbone_dir}"
    mine, theirs = loaded.model.config.to_dict(), reference.model.config.to_dict()
    for name in sorted((mine.keys() | theirs.keys()) - _NEUTRAL_CONFIG):
        if mine.get(name) != theirs.get(name) and not name.endswith("_token_id"):
            raise ModelFolderError(
                f"{where}: config {name} must be the reward model's {mine.get(name)!r},"
                f" got {theirs.get(name)!r}"
            )
    mine_print, theirs_print = loaded.tokenizer.fingerprint, reference.tokenizer.fingerprint
    if mine_print != theirs_print:
        raise ModelFolderError(
            f"{where}: tokenizer must be the reward model's {mine_print}, got {theirs_print}"
        )


def _version(
    loaded: LoadedModel,
    model_dir: Path,
    value_head: ValueHead | None,
    vectors: PreferenceVectors | None,
) -> str:
    """Return the fingerprint of what theta computes: folder, conditioning, head and encoder."""
    path = value_head_path(model_dir) if value_head is not None else None
    parts = f"{loaded.version}:{file_digest(path) if path else 'stage1'}"
    if vectors is not None:
        parts += f":{vectors.version}"
    return hashlib.sha256(parts.encode()).hexdigest()[:16]
