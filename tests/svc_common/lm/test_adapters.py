"""A LoRA adapter's folder loads as its base with the adapter merged."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from svc_common.lm.loading import LoadedModel, ModelFolderError, load_model
from tests.tiny_model import (
    CONTROL_TOKENS,
    save_tiny_model,
    tiny_model,
    tiny_tokenizer,
)

peft = pytest.importorskip("peft")
# peft asks a property of models that transformers is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")


def load(folder: Path) -> LoadedModel:
    return load_model(
        folder, dtype="float32", device="cpu", context_length=1024, setting="X_MODEL_DIR"
    )


def save_adapter(folder: Path, base_name: str, architecture: str = "llama") -> torch.nn.Module:
    """Write a random adapter and return the model that runs with it, unmerged."""
    torch.manual_seed(9)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=16,
        target_modules=["c_attn"] if architecture == "gpt2" else ["q_proj", "v_proj", "down_proj"],
        fan_in_fan_out=architecture == "gpt2",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(tiny_model(architecture), config).eval()
    model.save_pretrained(str(folder))
    change_config(folder, base_model_name_or_path=base_name)
    return model


def change_config(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    save_tiny_model(tmp_path / "base")
    save_adapter(tmp_path / "adapter", "../base")
    return tmp_path / "adapter"


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_adapter_gives_the_logits_of_the_model_it_was_saved_from(
    tmp_path: Path, architecture: str
) -> None:
    save_tiny_model(tmp_path / "base", architecture)
    unmerged = save_adapter(tmp_path / "adapter", "../base", architecture)
    loaded = load(tmp_path / "adapter")
    ids = torch.arange(40).unsqueeze(0)
    with torch.no_grad():
        merged = loaded.model(input_ids=ids).logits
        torch.testing.assert_close(merged, unmerged(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
        base = tiny_model(architecture)(input_ids=ids).logits
    assert (merged - base).abs().max() > 0.1
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.model_id == "adapter"
    assert loaded.head().vocabulary_size == merged.shape[-1]  # its output layer is known


def test_an_absolute_base_is_taken_as_it_is(tmp_path: Path, adapter: Path) -> None:
    relative = load(adapter)
    change_config(adapter, base_model_name_or_path=str(tmp_path / "base"))
    absolute = load(adapter)
    assert all(
        torch.equal(one, two)
        for one, two in zip(relative.model.parameters(), absolute.model.parameters(), strict=True)
    )


def test_the_version_covers_adapter_and_base(tmp_path: Path, adapter: Path) -> None:
    versions = [load(tmp_path / "base").version, load(adapter).version]
    path = adapter / "adapter_model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(path).items()}, path)
    versions.append(load(adapter).version)
    change_config(adapter, lora_alpha=8)
    versions.append(load(adapter).version)
    save_tiny_model(tmp_path / "base", seed=5)
    versions.append(load(adapter).version)
    assert len(set(versions)) == 5


def test_the_tokenizer_is_the_adapters_if_it_has_one_else_the_bases(
    tmp_path: Path, adapter: Path
) -> None:
    base = load(tmp_path / "base").tokenizer.fingerprint
    assert load(adapter).tokenizer.fingerprint == base
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["brandnew"])
    tokenizer.save_pretrained(adapter)
    loaded = load(adapter).tokenizer
    assert loaded.fingerprint != base
    assert loaded.end_of_turn_ids == {CONTROL_TOKENS.index("<|end|>")}


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_an_adapters_copy_of_the_bases_tokenizer_is_the_same_tokenizer(
    tmp_path: Path, architecture: str
) -> None:
    """transformers chooses its kind by config.json, which lies beside the base alone."""
    save_tiny_model(tmp_path / "base", architecture)
    save_adapter(tmp_path / "adapter", "../base", architecture)
    for path in (tmp_path / "base").glob("tokenizer*"):
        shutil.copy(path, tmp_path / "adapter")
    base, own = (load(tmp_path / name).tokenizer for name in ("base", "adapter"))
    assert own.fingerprint == base.fingerprint
    text = "I'm 12 km away, não?"
    assert own.encode_prompt(text) == base.encode_prompt(text)
    assert own.end_of_turn_ids == base.end_of_turn_ids


def test_a_folder_that_holds_a_model_and_an_adapter_is_refused(
    tmp_path: Path, adapter: Path
) -> None:
    """transformers adds the adapter or not, as peft is installed or not."""
    shutil.copy(adapter / "adapter_config.json", tmp_path / "base")
    with pytest.raises(ModelFolderError, match=r"must hold a model .*or an adapter .*holds both"):
        load(tmp_path / "base")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"base_model_name_or_path": "meta/some-model"},
            "must be a local model folder, relative to the adapter's, got 'meta/some-model'",
        ),
        ({"base_model_name_or_path": None}, "must be a local model folder, .* got None"),
        ({"base_model_name_or_path": ""}, "must be a local model folder, .* got ''"),
        ({"peft_type": "IA3"}, "peft_type must be LORA, got"),
        ({"r": 8}, "cannot be loaded: .*size mismatch"),
        ({"target_modules": ["q_proj", "v_proj"]}, "must fit the base, does not: .*down_proj"),
        ({"target_modules": ["q_proj", "v_proj", "down_proj", "k_proj"]}, "not: .*k_proj"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused_by_name(
    adapter: Path, change: dict[str, object], message: str
) -> None:
    change_config(adapter, **change)
    with pytest.raises(ModelFolderError, match=f"(?s)X_MODEL_DIR=.*adapter: .*{message}"):
        load(adapter)


def test_an_adapter_without_its_weights_is_refused_and_pickles_are_not_read(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelFolderError, match=r"must hold adapter_model.safetensors beside"):
        load(adapter)


def test_without_peft_the_error_says_what_to_install(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelFolderError, match=r"needs peft .*pip install ./client '.\[train\]'"):
        load(adapter)
