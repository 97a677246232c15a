"""What a reward model's folders must hold, and what is said where they do not."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from reward_svc.model import PersRM, load_pers_rm
from reward_svc.prompts import Reference
from reward_svc.settings import RewardSettings
from svc_common.lm.loading import LoadedModel, ModelFolderError, load_model
from tests.reward_svc.oracle import Oracle, value_head_tensors
from tests.reward_svc.replica import TOLERANCE, context, running_replica
from tests.tiny_model import CONTROL_TOKENS, save_tiny_model, tiny_model, tiny_tokenizer

CANDIDATES = [7, 99, 30, 140]


@pytest.fixture
def folder(settings: RewardSettings, tmp_path: Path) -> Path:
    """A copy of theta's folder that a test may change."""
    return Path(shutil.copytree(settings.model_dir, tmp_path / "theta"))


def load_from(settings: RewardSettings, folder: Path, **changes: str) -> PersRM:
    return load_pers_rm(dataclasses.replace(settings, model_dir=folder, **changes))


def save_head(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / "value_head.safetensors")


@pytest.mark.parametrize("reference", list(Reference))
async def test_a_value_head_folder_gives_what_the_authors_formula_gives(
    settings: RewardSettings, folder: Path, oracle: Oracle, reference: Reference
) -> None:
    """logits = lm_head(W_v h + b_v), of theta alone."""
    save_head(folder, value_head_tensors())
    model = load_from(settings, folder, value_head="auto")
    with_head = dataclasses.replace(oracle, value_head=value_head_tensors())
    what = context(("Be brief.", 1.0), ("Rhyme.", 0.5), reference=reference)
    async with running_replica(model) as replica:
        generator = replica.generator()
        await generator.open(1, what, [70, 71])
        (rewards,) = await generator.score((1, 2, CANDIDATES))
        assert isinstance(rewards, Tensor)
        expected = with_head.rewards(what, [70, 71], CANDIDATES)
        torch.testing.assert_close(rewards, expected, **TOLERANCE)
        plain = oracle.rewards(what, [70, 71], CANDIDATES)
        assert (rewards - plain).abs().max() > 0.01


@pytest.mark.parametrize("policy", ["auto", "required"])
def test_a_missing_head_is_an_error_that_says_what_to_set(
    settings: RewardSettings, folder: Path, policy: str
) -> None:
    with pytest.raises(ModelFolderError, match="set REWARD_VALUE_HEAD=stage1 if the stage-1"):
        load_from(settings, folder, value_head=policy)


def test_a_folder_can_say_itself_that_it_is_a_stage_1_model(
    settings: RewardSettings, folder: Path
) -> None:
    (folder / "pad_config.json").write_text('{"stage": 1}')
    load_from(settings, folder, value_head="auto")
    with pytest.raises(ModelFolderError, match="must hold value_head"):
        load_from(settings, folder, value_head="required")
    plain = load_from(settings, folder, value_head="auto")
    save_head(folder, value_head_tensors())
    auto, headed = (
        load_from(settings, folder, value_head=policy) for policy in ("auto", "required")
    )
    hidden = torch.randn(2, plain.network.backbone.config.hidden_size)
    assert torch.equal(auto.heads[0].logits(hidden), plain.heads[0].logits(hidden))
    assert not torch.allclose(headed.heads[0].logits(hidden), plain.heads[0].logits(hidden))


@pytest.mark.parametrize("text", ['{"stage": 3}', "[]", "{"])
def test_a_broken_pad_config_is_an_error(settings: RewardSettings, folder: Path, text: str) -> None:
    (folder / "pad_config.json").write_text(text)
    with pytest.raises(ModelFolderError, match=r"pad_config.json: "):
        load_from(settings, folder, value_head="auto")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"v_head.summary.bias": torch.zeros(7)},
            r"v_head.summary.bias must be \(32,\), got \(7,\)",
        ),
        (
            {"v_head.summary.weight": torch.zeros(1, 32)},
            r"v_head.summary.weight must be \(32, 32\), got \(1, 32\)",
        ),
        ({"other": torch.zeros(1)}, "must hold v_head.summary.weight"),
    ],
)
def test_a_head_of_another_shape_is_an_error_that_names_file_tensor_and_shapes(
    settings: RewardSettings, folder: Path, tensors: dict[str, Tensor], message: str
) -> None:
    base = {} if "other" in tensors else value_head_tensors()
    save_head(folder, base | tensors)
    with pytest.raises(ModelFolderError, match=f"value_head.safetensors: {message}"):
        load_from(settings, folder, value_head="required")


def test_a_head_file_that_cannot_be_read_is_an_error(
    settings: RewardSettings, folder: Path
) -> None:
    (folder / "value_head.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(ModelFolderError, match=r"value_head.safetensors: cannot be read"):
        load_from(settings, folder, value_head="required")


def test_the_version_changes_with_the_head(settings: RewardSettings, folder: Path) -> None:
    versions = {load_from(settings, folder, value_head="stage1").version}
    for scale in (1.0, 2.0):
        head = {name: scale * tensor for name, tensor in value_head_tensors().items()}
        save_head(folder, head)
        versions.add(load_from(settings, folder, value_head="auto").version)
    assert len(versions) == 3


def test_without_a_backbone_only_the_base_reference_is_there(
    settings: RewardSettings, folder: Path
) -> None:
    assert load_pers_rm(settings).has_reference
    assert not load_from(settings, folder, backbone_dir="").has_reference


def test_a_backbone_of_another_architecture_is_refused(
    settings: RewardSettings, tmp_path: Path
) -> None:
    other = save_tiny_model(tmp_path / "other", "qwen2")
    with pytest.raises(ModelFolderError, match=r"REWARD_BACKBONE_DIR=.*: config .* must be"):
        load_pers_rm(dataclasses.replace(settings, backbone_dir=str(other)))


def test_a_backbone_of_another_size_is_refused(settings: RewardSettings, tmp_path: Path) -> None:
    tiny_model(hidden=64).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="config head_dim must be"):
        load_pers_rm(dataclasses.replace(settings, backbone_dir=str(tmp_path)))


def test_a_backbone_with_other_positions_is_refused_though_its_shapes_are_equal(
    settings: RewardSettings, tmp_path: Path
) -> None:
    other = save_tiny_model(tmp_path / "other", seed=2)
    config = json.loads((other / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 5e5
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFolderError, match="config rope_parameters must be"):
        load_pers_rm(dataclasses.replace(settings, backbone_dir=str(other)))


def test_a_backbone_with_another_tokenizer_is_refused(
    settings: RewardSettings, tmp_path: Path
) -> None:
    other = save_tiny_model(tmp_path / "other", seed=2)
    text = (other / "tokenizer.json").read_text()
    one, two = CONTROL_TOKENS[2], CONTROL_TOKENS[3]
    swapped = text.replace(one, "@@").replace(two, one).replace("@@", two)
    (other / "tokenizer.json").write_text(swapped)
    with pytest.raises(ModelFolderError, match="tokenizer must be the reward model's"):
        load_pers_rm(dataclasses.replace(settings, backbone_dir=str(other)))


def test_a_reference_has_the_fingerprint_of_the_same_model_as_a_base_model(
    settings: RewardSettings,
) -> None:
    backbone_dir = Path(settings.backbone_dir)
    base = _load(backbone_dir, "float32")
    assert load_pers_rm(settings).reference_fingerprint == base.fingerprint_with(base.tokenizer)
    other_format = _load(backbone_dir, "bfloat16")
    assert other_format.fingerprint_with(base.tokenizer) != base.fingerprint_with(base.tokenizer)
    other_weights = _load(settings.model_dir, "float32")
    assert other_weights.fingerprint_with(base.tokenizer) != base.fingerprint_with(base.tokenizer)


def test_without_a_reference_there_is_no_fingerprint(settings: RewardSettings) -> None:
    alone = dataclasses.replace(settings, backbone_dir="")
    assert load_pers_rm(alone).reference_fingerprint == ""


def _load(folder: Path, dtype: str) -> LoadedModel:
    return load_model(folder, dtype=dtype, device="cpu", context_length=256, setting="TEST")
