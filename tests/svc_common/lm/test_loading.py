"""Model folders: what loads, and what is refused by name."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from svc_common.lm.loading import LoadedModel, ModelFolderError, fingerprint, load_model
from tests.tiny_model import CONTROL_TOKENS, save_tiny_model


def load(folder: Path, context_length: int = 1024) -> LoadedModel:
    return load_model(
        folder, dtype="float32", device="cpu", context_length=context_length, setting="X_MODEL_DIR"
    )


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_loads_with_its_end_of_turn_ids_and_the_models_own_context(tmp_path: Path) -> None:
    loaded = load(save_tiny_model(tmp_path / "some-model"))
    assert loaded.model_id == "some-model"
    assert loaded.context_length == 512  # the model's, less than asked for
    assert loaded.tokenizer.end_of_turn_ids == {CONTROL_TOKENS.index("<|end|>")}
    assert load(tmp_path / "some-model", 100).context_length == 100


@pytest.mark.parametrize("architecture", ["mistral", "qwen2"])
def test_a_sliding_window_limits_the_context(tmp_path: Path, architecture: str) -> None:
    folder = save_tiny_model(tmp_path / "m", architecture)
    if architecture == "mistral":
        change_config(folder, sliding_window=64)
    else:
        kinds = ["full_attention", "sliding_attention"]
        change_config(folder, use_sliding_window=True, sliding_window=64, layer_types=kinds)
    assert load(folder).context_length == 64
    if architecture == "qwen2":
        change_config(folder, layer_types=["full_attention", "full_attention"])
        assert load(folder).context_length == 512


def test_folders_without_config_or_safetensors_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"X_MODEL_DIR=.*nowhere: .*no config.json|has no"):
        load(tmp_path / "nowhere")
    folder = save_tiny_model(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelFolderError, match=r"\*.safetensors, has none"):
        load(folder)


def test_broken_weights_and_missing_tokenizers_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(ModelFolderError, match="cannot be loaded"):
        load(folder)


def test_missing_weights_are_refused_and_never_made_up(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelFolderError, match=r"1 lack: model.layers.1.mlp.up_proj.weight"):
        load(folder)


def test_the_fingerprint_follows_weights_and_configuration(tmp_path: Path) -> None:
    one = fingerprint(save_tiny_model(tmp_path / "a", seed=1))
    assert fingerprint(save_tiny_model(tmp_path / "b", seed=1)) == one
    assert fingerprint(save_tiny_model(tmp_path / "c", seed=2)) != one
    change_config(tmp_path / "a", rope_theta=5.0)
    assert fingerprint(tmp_path / "a") != one
