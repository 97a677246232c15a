"""Load a causal LM from a local folder: safetensors only, no code from the folder, no network."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from svc_common.lm.adapters import Adapter, LowRank, find_adapter
from svc_common.lm.folder_checks import check_folder
from svc_common.lm.head import Head, ValueHead
from svc_common.lm.networks import Network, make_network
from svc_common.lm.tokenizer import Tokenizer, load_tokenizer
from svc_common.settings import SettingsError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FINGERPRINT_BYTES = 1 << 20  # read from each end of a large file


class ModelFolderError(Exception):
    """A folder does not hold a model that can be served; the text names folder and rule."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer, ready to run.

    `context_length` is the longest sequence it computes exactly as trained.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    context_length: int
    model_id: str
    version: str
    where: str  # setting and folder, for messages

    def fingerprint_with(self, tokenizer: Tokenizer) -> str:
        """Return what is equal for models that answer any prompt with the same probabilities.

        Args:
            tokenizer: reads the prompts; its own is not always used.

        Returns:
            A hash of weights, number format and tokenizer; empty if nobody can tell.
        """
        if not tokenizer.prompt_fingerprint:
            return ""
        parts = f"{self.version}:{self.model.dtype}:{tokenizer.prompt_fingerprint}"
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def head(self, value_head: ValueHead | None = None) -> Head:
        """Return the model's output layer.

        Raises:
            ModelFolderError: it is of a kind that cannot be served.
        """
        try:
            return Head(self.model, value_head)
        except ValueError as error:
            raise ModelFolderError(f"{self.where}: {error}") from error

    def network(
        self,
        kind: str,
        *,
        second: "LoadedModel | None" = None,
        low_rank: Mapping[str, LowRank] | None = None,
    ) -> Network:
        """Return the model without its head, ready to run; see `make_network`.

        Raises:
            ModelFolderError: no forward of this kind runs it, or `second` is another architecture.
        """
        length = self.context_length
        if second is not None:
            length = min(length, second.context_length)
        other = None if second is None else second.model.base_model
        try:
            return make_network(
                self.model.base_model, length, kind, second=other, low_rank=low_rank
            )
        except ValueError as error:
            raise ModelFolderError(f"{self.where}: {error}") from error


def load_model(
    model_dir: Path, *, dtype: str, device: str, context_length: int, setting: str
) -> LoadedModel:
    """Load the model in `model_dir`.

    Args:
        model_dir: a transformers model folder, or that of a LoRA adapter, which names its base.
        dtype: a key of DTYPES.
        device: a torch device name.
        context_length: most tokens of a sequence; the model's own limit if that is less.
        setting: name of the setting that holds `model_dir`, for messages.

    Raises:
        ModelFolderError: the folder holds no model of a kind that can be served.
    """
    where = f"{setting}={model_dir}"
    disable_progress_bar()  # stderr holds JSON lines
    try:
        adapter = find_adapter(model_dir)
    except ValueError as error:
        raise ModelFolderError(f"{where}: {error}") from error
    weights_dir = adapter.base_dir if adapter is not None else model_dir
    if not (weights_dir / "config.json").is_file():
        raise ModelFolderError(f"{where}: must be a model folder, has no config.json")
    if not any(weights_dir.glob("*.safetensors")):
        raise ModelFolderError(f"{where}: must hold weights as *.safetensors, has none")
    try:
        check_folder(weights_dir)
        model = _load_weights(weights_dir, DTYPES[dtype])
        if adapter is not None:
            model = adapter.merge(model)
        tokenizer_dir = adapter.tokenizer_dir if adapter is not None else model_dir
        tokenizer = load_tokenizer(tokenizer_dir, weights_dir)
    except _IncompleteError as error:
        raise ModelFolderError(f"{where}: must hold all weights, {error}") from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelFolderError(f"{where}: cannot be loaded: {error}") from error
    limits = [context_length, getattr(model.config, "max_position_embeddings", None)]
    limits.append(sliding_window(model.config))
    return LoadedModel(
        model=model.eval().to(device).requires_grad_(False),
        tokenizer=tokenizer,
        context_length=min(limit for limit in limits if limit),
        model_id=model_dir.resolve().name,
        version=_version(weights_dir, adapter),
        where=where,
    )


def load_adapter_on(
    base: LoadedModel, base_dir: Path, adapter_dir: Path, setting: str
) -> tuple[LoadedModel, dict[str, LowRank]] | None:
    """Load the LoRA adapter in `adapter_dir` beside its base, whose weights both then share.

    Returns:
        The base's model with the adapter's names, and the changes of its layers; None where the
        folder holds no adapter of that base, or one that cannot stand beside it: then it must be
        merged.

    Raises:
        ModelFolderError: the adapter does not fit its base.
    """
    where = f"{setting}={adapter_dir}"
    try:
        adapter = find_adapter(adapter_dir)
        if adapter is None or adapter.base_dir.resolve() != base_dir.resolve():
            return None
        changes = adapter.low_rank(base.model)
        if changes is None:
            return None
        tokenizer = load_tokenizer(adapter.tokenizer_dir, adapter.base_dir)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelFolderError(f"{where}: cannot be loaded: {error}") from error
    loaded = replace(
        base,
        tokenizer=tokenizer,
        model_id=adapter_dir.resolve().name,
        version=_version(adapter.base_dir, adapter),
        where=where,
    )
    return loaded, changes


class _IncompleteError(Exception):
    """Weights are missing, in whose place transformers would go on with random numbers."""


def _load_weights(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model, report = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    lacking = sorted(map(str, {*report["missing_keys"], *report["mismatched_keys"]}))
    if lacking:
        raise _IncompleteError(f"{len(lacking)} lack: {lacking[0]}")
    return model


def _version(weights_dir: Path, adapter: Adapter | None) -> str:
    version = fingerprint(weights_dir)
    if adapter is None:
        return version
    return hashlib.sha256(f"{version}:{adapter.fingerprint}".encode()).hexdigest()[:16]


def check_device(setting: str, device: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        SettingsError: torch cannot allocate there.
    """
    cause: Exception | None = None
    try:
        is_usable = torch.empty(1, device=device).device.type != "meta"  # which has no contents
    except (RuntimeError, AssertionError, ImportError) as error:  # torch without CUDA asserts
        is_usable, cause = False, error
    if not is_usable:
        there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        rule = f"must be a torch device of this machine ({there})"
        raise SettingsError(f"{setting}: {rule}, got {device!r}") from cause


def sliding_window(config: object) -> int | None:
    """Return the attention window, within which sliding attention equals full attention."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    window: int | None = getattr(config, "sliding_window", None)
    return window


def fingerprint(model_dir: Path) -> str:
    """Return a hash of a model's configuration and weights.

    Of files above 2 MiB size, beginning and end are hashed: a safetensors file begins with the
    names, shapes and offsets of its tensors.
    """
    digest = hashlib.sha256()
    names = sorted(p for p in model_dir.iterdir() if p.suffix == ".safetensors")
    config = json.loads((model_dir / "config.json").read_text())
    digest.update(json.dumps(config, sort_keys=True).encode())
    for path in names:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            digest.update(file.read(_FINGERPRINT_BYTES))
            if size > _FINGERPRINT_BYTES:
                file.seek(max(_FINGERPRINT_BYTES, size - _FINGERPRINT_BYTES))
                digest.update(file.read())
    return digest.hexdigest()[:16]
