"""The models that replies are written with; a reward model with all its conditionings."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from reward_svc.pad_config import Conditioning, read_pad_config
from reward_svc.preference_encoders import (
    FOLDER_NAME,
    BackboneEncoder,
    FolderEncoder,
    TextEncoder,
)
from reward_svc.preference_head import PreferenceHead, apply_vectors, load_preference_head
from reward_svc.value_head import load_value_head, value_head_path
from svc_common.lm.head import Head
from svc_common.lm.loading import load_model
from svc_common.lm.tokenizer import Tokenizer
from training.pairs import PairBatch, scored_states

BASE, SMALL_BASE, REWARD_MODEL = "demo-base", "demo-base-small", "demo-persrm"
PROMPT, VALUE, VECTOR, BOTH = "prompt", "value", "vector", "both"
MAX_CONTEXT = 4096  # tokens; the model's own limit if that is less


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal LM in float32 with its output layer and tokenizer.

    `weights` is a hash of all weights: models with the same one compute the same.
    """

    model: PreTrainedModel
    head: Head
    tokenizer: Tokenizer
    context_length: int
    weights: str

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of last hidden states: `[N, D]` -> `[N, V]`."""
        return self.head.logits(hidden)


def load_language_model(folder: Path) -> LanguageModel:
    """Load a model folder.

    Raises:
        ModelFolderError: the folder holds no model that the services could serve.
    """
    loaded = load_model(
        folder, dtype="float32", device="cpu", context_length=MAX_CONTEXT, setting="model"
    )
    return LanguageModel(
        loaded.model,
        loaded.head(),
        loaded.tokenizer,
        loaded.context_length,
        weights_hash(loaded.model),
    )


def weights_hash(model: PreTrainedModel) -> str:
    """Return a hash of the names and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def hidden(model: LanguageModel, batch: PairBatch) -> Tensor:
    """Return the last hidden states at the scored positions of packed pairs, `[N, D]`."""
    return scored_states(model.model, batch)


class RewardVariant:
    """One conditioning of a reward model: what theta reads, and what comes before its logits.

    Args:
        name: `prompt` (w_p = 1), `value` (the authors' head), `vector` or `both`.
        theta: the trained weights; all conditionings of a model share one.
        head: theta's output layer, the value head folded in where there is one.
        preference_head: makes w_p and b_p; with `vector` and `both`.
        encoder: embeds preferences for it.
    """

    def __init__(
        self,
        name: str,
        theta: LanguageModel,
        head: Head,
        preference_head: PreferenceHead | None = None,
        encoder: TextEncoder | None = None,
    ) -> None:
        self.name = name
        self.theta = theta
        self._head = head
        self._preference_head = preference_head
        self._encoder = encoder
        self._vectors: dict[str, Tensor] = {}  # [2D] of each preference

    @property
    def guided(self) -> bool:
        """Whether theta reads the preference in its prompt."""
        return self.name != VECTOR

    @torch.inference_mode()
    def vectors(self, preferences: Sequence[str]) -> Tensor | None:
        """Return w_p and b_p of each preference `[B, 2D]`; None for conditionings without."""
        if self._preference_head is None or self._encoder is None:
            return None
        for text in dict.fromkeys(preferences):
            if text not in self._vectors:
                self._vectors[text] = self._preference_head(self._encoder.encode([text]))[0]
        return torch.stack([self._vectors[text] for text in preferences])

    @torch.inference_mode()
    def logits(self, states: Tensor, vectors: Tensor | None) -> Tensor:
        """Return logits of the vocabulary: `[N, D]`, `[N, 2D]` -> `[N, V]`."""
        return self._head.logits(states if vectors is None else apply_vectors(states, vectors))

    @torch.inference_mode()
    def candidate_logits(
        self, states: Tensor, vectors: Tensor | None, candidate_ids: Tensor
    ) -> Tensor:
        """Return logits of some tokens: `[N, D]`, `[N, 2D]`, `[N, K]` -> `[N, K]`."""
        moved = states if vectors is None else apply_vectors(states, vectors)
        return self._head.candidate_logits(moved, candidate_ids)


def load_reward_models(models: Path) -> dict[str, RewardVariant]:
    """Return every conditioning that the reward model of `models` has weights for, by name.

    Raises:
        ModelFolderError: the folder or one of its heads cannot be used.
    """
    return reward_variants(models / REWARD_MODEL)


def reward_variants(folder: Path) -> dict[str, RewardVariant]:
    """Return the conditionings of the reward model in `folder`.

    Raises:
        ModelFolderError: the folder or one of its heads cannot be used.
    """
    theta = load_language_model(folder)
    size = int(theta.model.config.hidden_size)
    variants = {PROMPT: RewardVariant(PROMPT, theta, theta.head)}
    if value_head_path(folder) is not None:
        value_head = load_value_head(folder, size, "required")
        variants[VALUE] = RewardVariant(VALUE, theta, Head(theta.model, value_head))
    names = [name for name in available_variants(folder) if name in (VECTOR, BOTH)]
    encoder = _encoder(folder, theta) if names else None
    for name in names:
        assert encoder is not None
        head = load_preference_head(head_path(folder, name), encoder.size, size)
        variants[name] = RewardVariant(name, theta, theta.head, head, encoder)
    return variants


def available_variants(folder: Path) -> list[str]:
    """Return the names that `reward_variants` would, by the files of `folder` alone."""
    names = [PROMPT] + ([VALUE] if value_head_path(folder) is not None else [])
    return names + [name for name in (VECTOR, BOTH) if head_path(folder, name).is_file()]


def head_path(folder: Path, name: str) -> Path:
    """Return where the preference head of a conditioning is kept."""
    return folder / f"{name}_head.safetensors"


def default_variant(folder: Path) -> str:
    """Return the conditioning that the reward service uses with `folder` unless told otherwise.

    Raises:
        ModelFolderError: the folder's own settings are broken.
    """
    config = read_pad_config(folder)
    needs_value_head = config.conditioning is Conditioning.PROMPT and config.stage == 2
    return VALUE if needs_value_head else config.conditioning.value


def _encoder(folder: Path, theta: LanguageModel) -> TextEncoder:
    if (folder / FOLDER_NAME).is_dir():
        return FolderEncoder(folder / FOLDER_NAME, "cpu")
    return BackboneEncoder(theta.model.base_model, theta.tokenizer)
