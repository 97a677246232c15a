"""What a folder must hold for each conditioning, and what is said where it does not."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from reward_svc.model import PersRM, load_pers_rm
from reward_svc.pad_config import Conditioning, PadConfig, read_pad_config
from reward_svc.preference_head import PreferenceHead, load_preference_head, save_preference_head
from reward_svc.settings import RewardSettings
from svc_common.lm.loading import ModelFolderError
from svc_common.settings import SettingsError
from tests.reward_svc.oracle import random_preference_head, value_head_tensors
from tests.reward_svc.replica import BRIEF, running_replica
from tests.reward_svc.small_encoder import save_small_encoder
from tests.tiny_model import tiny_tokenizer


@pytest.fixture
def folder(settings: RewardSettings, tmp_path: Path) -> Path:
    """A copy of theta's folder that a test may change."""
    return Path(shutil.copytree(settings.model_dir, tmp_path / "theta"))


def load_from(settings: RewardSettings, folder: Path, **changes: str) -> PersRM:
    return load_pers_rm(dataclasses.replace(settings, model_dir=folder, **changes))


def add_head(folder: Path, name: str = "vector", head: PreferenceHead | None = None) -> None:
    save_preference_head(head or random_preference_head(), folder / f"{name}_head.safetensors")


def configure(folder: Path, **values: object) -> None:
    (folder / "pad_config.json").write_text(json.dumps(values))


def test_the_folder_says_the_conditioning_unless_the_setting_does(
    settings: RewardSettings, folder: Path
) -> None:
    assert load_from(settings, folder).conditioning is Conditioning.PROMPT
    add_head(folder, "vector")
    add_head(folder, "both")
    assert load_from(settings, folder).conditioning is Conditioning.PROMPT
    configure(folder, stage=1, conditioning="vector")
    assert read_pad_config(folder) == PadConfig(1, Conditioning.VECTOR)
    assert load_from(settings, folder).conditioning is Conditioning.VECTOR
    for name in ("prompt", "vector", "both"):
        assert load_from(settings, folder, conditioning=name).conditioning.value == name


@pytest.mark.parametrize("name", ["vector", "both"])
def test_a_missing_head_is_an_error_that_names_the_file(
    settings: RewardSettings, folder: Path, name: str
) -> None:
    add_head(folder, "both" if name == "vector" else "vector")
    rule = f"theta: must hold {name}_head.safetensors for conditioning {name}, has none"
    with pytest.raises(ModelFolderError, match=rule):
        load_from(settings, folder, conditioning=name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"conditioning": "telepathy"}', "prompt | vector | both, got 'telepathy'"),
        ('{"conditioning": ["vector"]}', "got ['vector']"),
        ('{"conditioning": null}', "got None"),
        ('{"stage": 7, "conditioning": "vector"}', "stage must be 1 or 2, got 7"),
    ],
)
def test_an_unknown_conditioning_is_an_error(
    settings: RewardSettings, folder: Path, text: str, message: str
) -> None:
    (folder / "pad_config.json").write_text(text)
    with pytest.raises(ModelFolderError, match=rf"pad_config.json: .*{re.escape(message)}"):
        load_from(settings, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input.weight": torch.zeros(16, 31)}, "embeddings of the encoder's size 32, reads 31"),
        ({"output.weight": torch.zeros(66, 16)}, "must hold a preference head"),
        ({"input.weight": torch.zeros(16)}, "must hold a preference head"),
        ({"other": torch.zeros(1)}, "must hold a preference head"),
    ],
)
def test_a_head_of_another_shape_is_an_error(
    settings: RewardSettings, folder: Path, change: dict[str, torch.Tensor], message: str
) -> None:
    add_head(folder)
    path = folder / "vector_head.safetensors"
    save_file(load_file(path) | change, path)
    with pytest.raises(ModelFolderError, match=rf"vector_head.safetensors: .*{message}"):
        load_from(settings, folder, conditioning="vector")


def test_a_head_that_cannot_be_read_is_an_error(settings: RewardSettings, folder: Path) -> None:
    (folder / "vector_head.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(ModelFolderError, match=r"vector_head.safetensors: cannot be read"):
        load_from(settings, folder, conditioning="vector")
    with pytest.raises(ModelFolderError, match="cannot be read"):
        load_preference_head(folder / "nowhere", 32, 32)


def test_a_value_head_belongs_to_conditioning_prompt_alone(
    settings: RewardSettings, folder: Path
) -> None:
    """A stage-2 folder needs one for `prompt`; the others neither need nor use it."""
    add_head(folder)
    configure(folder, stage=2, conditioning="vector")
    without = load_from(settings, folder, value_head="auto")
    save_file(value_head_tensors(), folder / "value_head.safetensors")
    hidden, ids = torch.randn(1, 32), torch.arange(9).unsqueeze(0)
    logits = [
        load_from(settings, folder, value_head="auto", conditioning=name)
        .heads[0]
        .candidate_logits(hidden, ids)
        for name in ("vector", "prompt")
    ]
    assert torch.equal(logits[0], without.heads[0].candidate_logits(hidden, ids))
    assert not torch.allclose(logits[0], logits[1])
    with pytest.raises(SettingsError, match="REWARD_VALUE_HEAD: must be auto or stage1 with cond"):
        load_from(settings, folder, value_head="required")


def test_a_model_without_chat_template_cannot_be_its_own_encoder(
    settings: RewardSettings, folder: Path
) -> None:
    add_head(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    for path in folder.glob("*.jinja"):
        path.unlink()
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelFolderError, match="has no chat template"):
        load_from(settings, folder, conditioning="vector")


def test_the_version_changes_with_conditioning_head_encoder_and_chat_template(
    settings: RewardSettings, folder: Path
) -> None:
    """Redis keeps vectors under it."""
    add_head(folder, "vector")
    add_head(folder, "both")
    names = ("prompt", "vector", "both")
    versions = [load_from(settings, folder, conditioning=name).version for name in names]
    (folder / "chat_template.jinja").write_text("x{{ messages[0]['content'] }}")
    versions.append(load_from(settings, folder, conditioning="vector").version)
    other = random_preference_head()
    nn.init.zeros_(other.output.bias)
    add_head(folder, "vector", other)
    versions.append(load_from(settings, folder, conditioning="vector").version)
    encoder = save_small_encoder(folder / "preference_encoder", hidden=32)
    versions.append(load_from(settings, folder, conditioning="vector").version)
    tokenizer = encoder / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text().replace("{", '{"x": 1, ', 1))
    versions.append(load_from(settings, folder, conditioning="vector").version)
    assert len(set(versions)) == len(versions) == 7


async def test_an_encoder_in_the_folder_is_used_and_may_have_another_size(
    settings: RewardSettings, folder: Path
) -> None:
    add_head(folder, "vector", random_preference_head(24))
    with pytest.raises(ModelFolderError, match="the encoder's size 32, reads 24"):
        load_from(settings, folder, conditioning="vector")
    save_small_encoder(folder / "preference_encoder", hidden=24)
    model = load_from(settings, folder, conditioning="vector")
    async with running_replica(model) as replica:
        opened = await replica.generator().open(1, BRIEF)
        assert opened.num_prompt_tokens > 0
    (folder / "preference_encoder" / "config.json").unlink()
    with pytest.raises(ModelFolderError, match="preference_encoder: must be a transformers folder"):
        load_from(settings, folder, conditioning="vector")
