"""Embeddings of preference texts: what a preference head reads.

One text at a time, so that an embedding does not depend on what else is encoded, to the last bit.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from reward_svc.prompts import encode_preference
from svc_common.errors import InvalidRequestError
from svc_common.lm.folder_checks import check_folder
from svc_common.lm.loading import ModelFolderError, fingerprint
from svc_common.lm.paired import WeightSplit
from svc_common.lm.tokenizer import Tokenizer

FOLDER_NAME = "preference_encoder"
_TEXT_FILES = (".json", ".txt", ".model")  # of a tokenizer
_PROBE = "Be brief."


class TextEncoder(Protocol):
    """Turns texts into vectors of one size."""

    @property
    def size(self) -> int:
        """E, numbers of an embedding."""

    @property
    def fingerprint(self) -> str:
        """Equal for encoders that give equal embeddings, apart from the reward model's weights."""

    def check(self, field: str, text: str) -> None:
        """Refuse a text that cannot be encoded.

        Raises:
            InvalidRequestError: it holds a control token, or is too long.
        """

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings `[N, E]`, float32; none requires a gradient.

        Raises:
            InvalidRequestError: a text cannot be encoded.
        """


class BackboneEncoder:
    """The mean of the reward model's own last hidden states over the preference's prompt.

    Args:
        backbone: a causal LM without its head: theta. It is run as it is, so put it in eval mode.
        tokenizer: theta's; it must have a chat template.
        split: set where the backbone carries two sets of weights; the first is run.
        max_tokens: longest prompt that `check` lets pass; None: any.
    """

    def __init__(
        self,
        backbone: nn.Module,
        tokenizer: Tokenizer,
        *,
        split: WeightSplit | None = None,
        max_tokens: int | None = None,
    ) -> None:
        self._backbone = backbone
        self._tokenizer = tokenizer
        self._split = split
        self._max_tokens = max_tokens
        self._device = next(backbone.parameters()).device

    @property
    def size(self) -> int:
        size: int = self._backbone.config.hidden_size  # type: ignore[union-attr, assignment]
        return size

    @property
    def fingerprint(self) -> str:
        """Depends on what the tokenizer and its chat template make of a preference.

        Raises:
            ModelMismatchError: the model has no chat template.
        """
        token_ids = encode_preference(_PROBE, self._tokenizer)
        return hashlib.sha256(f"backbone:{token_ids}".encode()).hexdigest()[:16]

    def check(self, field: str, text: str) -> None:
        self._tokenizer.check_text(field, text)
        if self._max_tokens is None:
            return
        self._tokenizer.check_length(field, text, self._max_tokens)
        _check_count(field, len(encode_preference(text, self._tokenizer)), self._max_tokens)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        rows = [self._hidden(text).float().mean(0) for text in texts]
        return torch.stack(rows) if rows else torch.empty(0, self.size, device=self._device)

    def _hidden(self, text: str) -> Tensor:
        """Return the last hidden states of a preference's prompt: `[T, D]`."""
        token_ids = encode_preference(text, self._tokenizer)
        ids = torch.tensor([token_ids], device=self._device)  # [1, T]
        if self._split is not None:
            self._split.num_first = 1
        hidden: Tensor = self._backbone(input_ids=ids, use_cache=False).last_hidden_state[0]
        return hidden


class FolderEncoder:
    """The mean of a local transformers model's last hidden states over the bare text.

    Which is what sentence-embedding models with mean pooling compute. In float32.

    Args:
        folder: model and tokenizer, weights as safetensors; code in it is not run.
        device: a torch device name.

    Raises:
        ModelFolderError: the folder holds no such model.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._folder = folder
        self._model, self._tokenizer = _load(folder)
        self._model.to(device)
        self._max_tokens = _max_tokens(self._model, self._tokenizer)
        self.encode([_PROBE])  # a tokenizer may be saved to truncate, and stops with its first call

    @property
    def size(self) -> int:
        size: int = self._model.config.hidden_size
        return size

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(fingerprint(self._folder).encode())
        for path in sorted(self._folder.iterdir()):
            if path.is_file() and path.suffix in _TEXT_FILES and path.name != "config.json":
                digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()[:16]

    def check(self, field: str, text: str) -> None:
        if self._max_tokens is not None:
            count = len(self._tokenizer(text, truncation=False, verbose=False).input_ids)
            _check_count(field, count, self._max_tokens)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        rows = [self._embedding(text) for text in texts]
        return torch.stack(rows) if rows else torch.empty(0, self.size, device=self._model.device)

    def _embedding(self, text: str) -> Tensor:
        """Return the embedding of a text: `[E]`; alone in its batch, all its tokens are attended.

        Raises:
            InvalidRequestError: it is longer than the model can read.
        """
        self.check("preference.text", text)
        inputs = self._tokenizer(
            text, truncation=False, padding=False, verbose=False, return_tensors="pt"
        )
        hidden: Tensor = self._model(**inputs.to(self._model.device)).last_hidden_state[0]
        return hidden.float().mean(0)


def _check_count(field: str, num_tokens: int, max_tokens: int) -> None:
    if num_tokens > max_tokens:
        rule = f"must have at most {max_tokens} tokens for the preference encoder"
        raise InvalidRequestError(f"{field}: {rule}, got {num_tokens}")


def _load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if not (folder / "config.json").is_file():
        raise ModelFolderError(f"{folder}: must be a transformers folder, has no config.json")
    try:
        check_folder(folder)
        model, report = AutoModel.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelFolderError(f"{folder}: cannot be loaded: {error}") from error
    lacking = {str(name) for name in (*report["missing_keys"], *report["mismatched_keys"])}
    # Folders made for mean pooling may lack the pooler, which is not used.
    lacking = {name for name in lacking if not name.startswith("pooler.")}
    if lacking:
        rule = f"must hold all weights, {len(lacking)} lack"
        raise ModelFolderError(f"{folder}: {rule}: {min(lacking)}")
    return model.eval().requires_grad_(False), tokenizer


def _max_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return how many tokens the model can read, None if nothing bounds them."""
    limits = [tokenizer.model_max_length]  # an astronomic number where it was never set
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if isinstance(table, nn.Embedding):
        # Models of RoBERTa's kind number positions from behind the padding's.
        first = 0 if table.padding_idx is None else table.padding_idx + 1
        limits.append(table.num_embeddings - first)
    else:
        limits.append(getattr(model.config, "max_position_embeddings", None) or limits[0])
    most = min(limits)
    return most if most < 1 << 30 else None
