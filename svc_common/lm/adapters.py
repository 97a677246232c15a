"""LoRA adapters as peft writes them: found in a folder, and merged into their base on loading."""

import hashlib
import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from svc_common.lm.folder_checks import ADAPTER_CONFIG, check_folder

CONFIG_NAME = ADAPTER_CONFIG
WEIGHTS_NAME = "adapter_model.safetensors"


@dataclass(frozen=True)
class LowRank:
    """The change of one linear layer: `rows @ down @ up`; down `[in, r]`, up `[r, out]`, scaled."""

    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class Adapter:
    """A folder that holds the change of a base model, and the folder of that base."""

    folder: Path
    base_dir: Path

    @property
    def fingerprint(self) -> str:
        """A hash of the adapter itself, without its base."""
        digest = hashlib.sha256((self.folder / CONFIG_NAME).read_bytes())
        with (self.folder / WEIGHTS_NAME).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]

    @property
    def tokenizer_dir(self) -> Path:
        """The adapter's own folder if it holds a tokenizer, else the base's."""
        has_own = (self.folder / "tokenizer_config.json").is_file()
        return self.folder if has_own else self.base_dir

    def merge(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the base `model` with the adapter's change in its weights.

        Raises:
            ValueError: peft is not installed, or the adapter does not fit the base.
        """
        merged: PreTrainedModel = self._attach(model).merge_and_unload(safe_merge=True)
        return merged

    def low_rank(self, model: PreTrainedModel) -> dict[str, LowRank] | None:
        """Return the change of each linear layer of the backbone of `model`, which stays as it is.

        None where the adapter changes more than that, or in another way than W + B A.

        Raises:
            ValueError: peft is not installed, or the adapter does not fit the base.
        """
        changed = self._attach(model)
        config = changed.peft_config["default"]
        is_plain = not (config.use_dora or config.modules_to_save or config.bias != "none")
        changes = {
            name: _change(module)
            for name, module in changed.base_model.model.base_model.named_modules()
            if hasattr(module, "lora_A")
        }
        others = {
            name
            for name, module in changed.base_model.model.named_modules()
            if hasattr(module, "lora_A")
        }
        model = changed.unload()
        is_plain = is_plain and len(others) == len(changes) and None not in changes.values()
        return {name: change for name, change in changes.items() if change} if is_plain else None

    def _attach(self, model: PreTrainedModel) -> Any:
        """Return the base `model` as peft's, with the adapter beside its weights."""
        peft = _peft()
        config = peft.PeftConfig.from_pretrained(str(self.folder))
        config.base_model_name_or_path = None  # peft compares it with the path it was loaded from
        changed = peft.get_peft_model(model, config)
        tensors = load_file(self.folder / WEIGHTS_NAME)
        result = peft.set_peft_model_state_dict(changed, tensors)
        missing = [name for name in result.missing_keys if "lora_" in name]
        if wrong := sorted([*missing, *result.unexpected_keys]):
            raise ValueError(f"{WEIGHTS_NAME}: must fit the base, does not: {wrong[0]}")
        return changed


def _change(module: Any) -> LowRank | None:
    """Return what a layer of peft's adds; None if it is no linear layer, or has its own bias."""
    base = module.get_base_layer()
    if not isinstance(base, nn.Linear) or module.lora_B["default"].bias is not None:
        return None
    down, up = module.lora_A["default"].weight.T, module.lora_B["default"].weight.T
    kind = {"dtype": base.weight.dtype, "device": base.weight.device}
    scaled = up * module.scaling["default"]
    return LowRank(
        down.detach().to(**kind).contiguous(),
        scaled.detach().to(**kind).contiguous(),
    )


def find_adapter(folder: Path) -> Adapter | None:
    """Return the adapter that `folder` holds, or None if there is none.

    Raises:
        ValueError: it is of another kind than LoRA, its weights are missing, its base is no local
            folder, or the folder holds a model as well.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        return None
    check_folder(folder)
    if not (folder / WEIGHTS_NAME).is_file():
        raise ValueError(f"must hold {WEIGHTS_NAME} beside {CONFIG_NAME}, has none")
    try:
        config = json.loads(path.read_text())
        kind, name = config["peft_type"], config["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        rule = "must name peft_type and base_model_name_or_path"
        raise ValueError(f"{CONFIG_NAME}: {rule}: {error}") from error
    if kind != "LORA":
        raise ValueError(f"{CONFIG_NAME}: peft_type must be LORA, got {kind!r}")
    base_dir = (folder / str(name)).resolve()
    if not name or not (base_dir / "config.json").is_file():
        rule = "must be a local model folder, relative to the adapter's"
        raise ValueError(f"{CONFIG_NAME}: base_model_name_or_path {rule}, got {name!r}")
    return Adapter(folder, base_dir)


def _peft() -> Any:
    """Return peft. Whoever serves no adapter need not have it, nor wait for its import."""
    try:
        return import_module("peft")
    except ModuleNotFoundError as error:
        rule = "needs peft to be merged: pip install ./client '.[train]' in a checkout"
        raise ValueError(f"{CONFIG_NAME}: {rule} ({error})") from error
