"""The reward model: trained weights and frozen reference, ready to run in one forward."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from reward_svc.pad_config import Conditioning, read_pad_config
from reward_svc.preference_encoders import BackboneEncoder
from reward_svc.preference_vectors import PreferenceVectors, load_preference_vectors
from reward_svc.settings import RewardSettings
from reward_svc.value_head import file_digest, load_value_head, value_head_path
from svc_common.errors import InvalidRequestError
from svc_common.lm.head import Head, ValueHead
from svc_common.lm.loading import DTYPES, LoadedModel, ModelFolderError, check_device, load_model
from svc_common.lm.paired import WeightSplit, pair_weights
from svc_common.lm.runner import SlotRunner
from svc_common.lm.tokenizer import Tokenizer
from svc_common.settings import SettingsError

# Say where a model came from or how it is used, not what it computes.
_NEUTRAL_CONFIG = frozenset(
    ["_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache"]
)


@dataclass(frozen=True)
class PersRM:
    """PAD's personalised reward model.

    `heads` has one entry a row group: `THETA`, and `REFERENCE` if the backbone is loaded. `vectors`
    is there if the conditioning needs it.
    """

    backbone: nn.Module
    heads: tuple[Head, ...]
    split: WeightSplit | None
    tokenizer: Tokenizer
    context_length: int
    device: torch.device
    model_id: str
    version: str
    conditioning: Conditioning
    vectors: PreferenceVectors | None

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
        return SlotRunner(
            self.backbone,
            num_slots=num_slots,
            context_length=self.context_length,
            split=self.split,
        )


def load_pers_rm(settings: RewardSettings) -> PersRM:
    """Load the reward model and, if one is named, its backbone.

    Raises:
        ModelFolderError: A folder does not hold what is needed, or the two do not belong together.
        SettingsError: The device is not there, or two settings contradict each other.
    """
    check_device("REWARD_DEVICE", settings.device)
    loaded = _load(settings, settings.model_dir, "REWARD_MODEL_DIR")
    config = loaded.model.config
    conditioning = _conditioning(settings)
    value_head = _value_head(settings, conditioning, config.hidden_size)
    heads = [loaded.head(value_head)]
    split, context_length = None, loaded.context_length
    if settings.backbone_dir:
        backbone_dir = Path(settings.backbone_dir)
        reference = _load(settings, backbone_dir, "REWARD_BACKBONE_DIR")
        _check_pair(loaded, reference, backbone_dir)
        heads.append(reference.head())
        context_length = min(context_length, reference.context_length)
        split = _pair(loaded, reference, backbone_dir)
    backbone, tokenizer = loaded.model.base_model, loaded.tokenizer
    own = BackboneEncoder(backbone, tokenizer, split=split, max_tokens=context_length)
    vectors = load_preference_vectors(
        settings.model_dir, conditioning, own, config.hidden_size, settings.device
    )
    return PersRM(
        backbone=backbone,
        heads=tuple(heads),
        split=split,
        tokenizer=tokenizer,
        context_length=context_length,
        device=next(loaded.model.parameters()).device,
        model_id=loaded.model_id,
        version=_version(loaded, settings.model_dir, value_head, vectors),
        conditioning=conditioning,
        vectors=vectors,
    )


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


def _pair(loaded: LoadedModel, reference: LoadedModel, backbone_dir: Path) -> WeightSplit:
    try:
        return pair_weights(loaded.model.base_model, reference.model.base_model)
    except ValueError as error:
        raise ModelFolderError(f"REWARD_BACKBONE_DIR={backbone_dir}: {error}") from error


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
