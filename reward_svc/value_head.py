"""Load PAD's value head from a model folder, in the format of the released checkpoint."""

import hashlib
import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from svc_common.lm.head import ValueHead
from svc_common.lm.loading import ModelFolderError

FILE_NAMES = ("value_head.safetensors", "value_head.bin")
CONFIG_NAME = "pad_config.json"
WEIGHT, BIAS = "v_head.summary.weight", "v_head.summary.bias"


def load_value_head(model_dir: Path, hidden_size: int, policy: str) -> ValueHead | None:
    """Return the folder's value head, or None where the stage-1 model is meant.

    Args:
        model_dir: The reward model's folder.
        hidden_size: D.
        policy: `auto`, `required` or `stage1`, see `RewardSettings.value_head`.

    Raises:
        ModelFolderError: A head is missing, broken, or there though the folder says there is none.

    Source: PAD's released code, model/loader.py, which goes on with an identity head, in silence,
    where the file is missing; here that is an error.
    """
    if policy == "stage1":
        return None
    path = value_head_path(model_dir)
    is_stage_1 = policy == "auto" and _stage(model_dir) == 1
    if path is None and not is_stage_1:
        raise ModelFolderError(
            f"REWARD_MODEL_DIR={model_dir}: must hold {FILE_NAMES[0]} or {FILE_NAMES[1]}, has none;"
            " set REWARD_VALUE_HEAD=stage1 if the stage-1 model is meant"
        )
    if path is None:
        return None
    if is_stage_1:
        raise ModelFolderError(
            f"{path}: must not be there as {CONFIG_NAME} says stage 1; set REWARD_VALUE_HEAD to"
            " required or stage1"
        )
    tensors = _read(path)
    return ValueHead(
        weight=_tensor(path, tensors, WEIGHT, (hidden_size, hidden_size)),
        bias=_tensor(path, tensors, BIAS, (hidden_size,)),
    )


def value_head_path(model_dir: Path) -> Path | None:
    """Return the file that holds the value head, if there is one."""
    return next((path for name in FILE_NAMES if (path := model_dir / name).is_file()), None)


def file_digest(path: Path) -> str:
    """Return a hash of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stage(model_dir: Path) -> int:
    """Return the training stage that the folder names; 2 if it names none."""
    path = model_dir / CONFIG_NAME
    if not path.is_file():
        return 2
    try:
        stage = json.loads(path.read_text()).get("stage", 2)
    except (ValueError, AttributeError) as error:
        raise ModelFolderError(f"{path}: must be a JSON object: {error}") from error
    if stage not in (1, 2):
        raise ModelFolderError(f"{path}: stage must be 1 or 2, got {stage!r}")
    return int(stage)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, OSError, RuntimeError, EOFError) as error:
        raise ModelFolderError(f"{path}: cannot be read: {error}") from error
    if not isinstance(tensors, dict):
        raise ModelFolderError(f"{path}: must hold named tensors, got {type(tensors).__name__}")
    return tensors


def _tensor(path: Path, tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None:
        raise ModelFolderError(f"{path}: must hold {name}, holds {sorted(tensors)}")
    if tuple(tensor.shape) != shape:
        raise ModelFolderError(f"{path}: {name} must be {shape}, got {tuple(tensor.shape)}")
    return tensor
