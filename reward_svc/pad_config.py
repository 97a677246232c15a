"""What a reward model's folder says of itself: `pad_config.json`."""

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from svc_common.lm.loading import ModelFolderError

CONFIG_NAME = "pad_config.json"


class Conditioning(Enum):
    """How a preference reaches the reward model.

    PROMPT: it stands in theta's prompt. VECTOR: theta reads the plain conversation, and w_p and
    b_p change its last hidden state. BOTH: both.
    """

    PROMPT = "prompt"
    VECTOR = "vector"
    BOTH = "both"

    @property
    def has_prompt(self) -> bool:
        """Whether the preference stands in theta's prompt."""
        return self is not Conditioning.VECTOR

    @property
    def has_vector(self) -> bool:
        """Whether the preference's vector changes the last hidden state."""
        return self is not Conditioning.PROMPT


@dataclass(frozen=True)
class PadConfig:
    """The stage that the folder's weights come from, and the conditioning they are meant for."""

    stage: int = 2
    conditioning: Conditioning = Conditioning.PROMPT


def read_pad_config(model_dir: Path) -> PadConfig:
    """Return what the folder says; stage 2 and `prompt` where it says nothing.

    Raises:
        ModelFolderError: The file is broken, or a value is not known.
    """
    path = model_dir / CONFIG_NAME
    if not path.is_file():
        return PadConfig()
    try:
        values = json.loads(path.read_text())
        stage, name = values.get("stage", 2), values.get("conditioning", "prompt")
    except (ValueError, AttributeError) as error:
        raise ModelFolderError(f"{path}: must be a JSON object: {error}") from error
    if stage not in (1, 2):
        raise ModelFolderError(f"{path}: stage must be 1 or 2, got {stage!r}")
    if name not in (known := [one.value for one in Conditioning]):
        rule = f"conditioning must be {' | '.join(known)}"
        raise ModelFolderError(f"{path}: {rule}, got {name!r}")
    return PadConfig(int(stage), Conditioning(name))
