"""Load PAD's value head from a model folder, with the names of the released checkpoint."""

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from reward_svc.pad_config import read_pad_config
from svc_common.lm.head import ValueHead
from svc_common.lm.loading import ModelFolderError

FILE_NAME = "value_head.safetensors"
PICKLE_NAME = "value_head.bin"  # as the release also has it; never read here
WEIGHT, BIAS = "v_head.summary.weight", "v_head.summary.bias"


def load_value_head(model_dir: Path, hidden_size: int, policy: str) -> ValueHead | None:
    """Return the folder's value head, or None where the stage-1 model is meant.

    A folder that says stage 1 may hold a head all the same, for `required`.

    Args:
        model_dir: The reward model's folder.
        hidden_size: D.
        policy: `auto`, `required` or `stage1`, see `RewardSettings.value_head`.

    Raises:
        ModelFolderError: The head is missing or broken.

    Source: PAD's released code, model/loader.py, which goes on with an identity head, in silence,
    where the file is missing; here that is an error.
    """
    if policy == "stage1" or (policy == "auto" and read_pad_config(model_dir).stage == 1):
        return None
    path = value_head_path(model_dir)
    if path is None and (model_dir / PICKLE_NAME).is_file():
        raise ModelFolderError(
            f"REWARD_MODEL_DIR={model_dir}: must hold {FILE_NAME}, has {PICKLE_NAME}, a pickle,"
            f" which is not read; convert it: python -m training.convert_head {model_dir}"
        )
    if path is None:
        raise ModelFolderError(
            f"REWARD_MODEL_DIR={model_dir}: must hold {FILE_NAME}, has none;"
            " set REWARD_VALUE_HEAD=stage1 if the stage-1 model is meant"
        )
    tensors = _read(path)
    return ValueHead(
        weight=_tensor(path, tensors, WEIGHT, (hidden_size, hidden_size)),
        bias=_tensor(path, tensors, BIAS, (hidden_size,)),
    )


def value_head_path(model_dir: Path) -> Path | None:
    """Return the file that holds the value head, if there is one."""
    path = model_dir / FILE_NAME
    return path if path.is_file() else None


def file_digest(path: Path) -> str:
    """Return a hash of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(f"{path}: cannot be read: {error}") from error


def _tensor(path: Path, tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None:
        raise ModelFolderError(f"{path}: must hold {name}, holds {sorted(tensors)}")
    if tuple(tensor.shape) != shape:
        raise ModelFolderError(f"{path}: {name} must be {shape}, got {tuple(tensor.shape)}")
    return tensor
