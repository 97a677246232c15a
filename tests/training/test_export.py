"""The exported folder: an adapter alone serves what the merged weights serve."""

import json
import shutil
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reward_svc.model import PersRM, load_pers_rm
from reward_svc.prompts import THETA
from reward_svc.settings import RewardSettings
from svc_common.lm.loading import load_model
from tests.reward_svc.small_encoder import save_small_encoder
from tests.training.recipes import tiny_recipe
from training.run import run_recipe

# peft asks a property of models that transformers is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")
PREFERENCES = ("Be brief.", "Be kind.")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, `merged` and `alone` (the adapter's export), with paths seen from their folder."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    with chdir(folder):
        run_recipe(tiny_recipe(Path(), "export.dir=out/merged"))
        run_recipe(tiny_recipe(Path(), "export.dir=out/alone", "export.weights=adapter"))
    return folder


def served(folder: Path, name: str, conditioning: str = "auto") -> PersRM:
    return load_pers_rm(
        RewardSettings(
            model_dir=folder / "out" / name,
            backbone_dir=str(folder / "base"),
            conditioning=conditioning,
            dtype="float32",
            device="cpu",
        )
    )


@torch.no_grad()
def outputs(model: PersRM) -> list[torch.Tensor]:
    """Theta's logits, through its head, and the vectors of preferences."""
    runner = model.new_runner(1)
    hidden = runner.append(runner.open(THETA), list(range(10, 50)), all_positions=True)  # [T, D]
    found = [model.heads[0].logits(hidden)]
    for text in PREFERENCES if model.vectors is not None else ():
        generator = model.vectors.of(text)
        try:
            while True:
                next(generator)
        except StopIteration as stop:
            found.append(stop.value)
    return found


@pytest.mark.parametrize("conditioning", ["prompt", "vector", "both"])
def test_an_adapter_is_served_as_the_merged_weights_are(trained: Path, conditioning: str) -> None:
    alone, merged = (outputs(served(trained, name, conditioning)) for name in ("alone", "merged"))
    assert len(alone) == (1 if conditioning == "prompt" else 3)
    torch.testing.assert_close(alone, merged, rtol=0, atol=1e-4)


def test_an_adapter_is_not_served_as_its_base(trained: Path) -> None:
    ids = torch.arange(10, 50).unsqueeze(0)
    with torch.no_grad():
        alone, base = (
            load_model(folder, dtype="float32", device="cpu", context_length=512, setting="X")
            .model(input_ids=ids)
            .logits
            for folder in (trained / "out/alone", trained / "base")
        )
    assert (alone - base).abs().max() > 0.01


def test_an_adapter_folder_holds_heads_and_tokenizer_but_no_weights(trained: Path) -> None:
    found = {path.name for path in (trained / "out/alone").iterdir()}
    assert found == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "both_head.safetensors",
        "generation_config.json",
        "metrics.json",
        "pad_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "value_head.safetensors",
        "vector_head.safetensors",
    } | {path.name for path in (trained / "base").glob("chat_template*")}
    config = json.loads((trained / "out/alone/pad_config.json").read_text())
    assert config == {"stage": 2, "conditioning": "prompt"}
    assert "merges the two" in (trained / "out/alone/README.md").read_text()


def test_an_adapter_names_its_base_as_seen_from_its_own_folder(trained: Path) -> None:
    for folder, base in (("out/alone", "../../base"), ("out/merged/adapter", "../../../base")):
        config = json.loads((trained / folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == base


def test_the_adapter_beside_merged_weights_loads_to_the_same_model(trained: Path) -> None:
    ids = torch.arange(10, 50).unsqueeze(0)
    with torch.no_grad():
        logits = [
            load_model(folder, dtype="float32", device="cpu", context_length=512, setting="X")
            .model(input_ids=ids)
            .logits
            for folder in (trained / "out/merged/adapter", trained / "out/merged")
        ]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-4)


def test_base_and_adapter_may_be_moved_together(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "base", tmp_path / "base")
    shutil.copytree(trained / "out/alone", tmp_path / "out/alone")
    moved, here = served(tmp_path, "alone"), served(trained, "alone")
    assert moved.version == here.version


def test_versions_tell_adapter_heads_and_conditionings_apart(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "base", tmp_path / "base")
    shutil.copytree(trained / "out/alone", tmp_path / "out/alone")
    versions = [served(tmp_path, "alone", name).version for name in ("prompt", "vector", "both")]
    for name in ("value_head", "adapter_model"):
        path = tmp_path / f"out/alone/{name}.safetensors"
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
        versions.append(served(tmp_path, "alone").version)
    assert len(set(versions)) == 5


def test_an_export_of_the_other_layout_leaves_nothing_of_the_first(
    trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    for weights, source in (("merged", "merged"), ("adapter", "alone"), ("merged", "merged")):
        with chdir(tmp_path):
            options = (f"export.weights={weights}", "export.dir=out/again")
            run_recipe(tiny_recipe(Path(), *options))
        names = [
            {path.name for path in (tmp_path / "out" / name).iterdir()}
            for name in ("again", source)
        ]
        assert names[0] == names[1]
        torch.testing.assert_close(
            outputs(served(tmp_path, "again")), outputs(served(trained, source)), rtol=0, atol=1e-4
        )


def test_an_external_preference_encoder_is_copied_beside_the_adapter(tmp_path: Path) -> None:
    encoder = save_small_encoder(tmp_path / "encoder")
    recipe = tiny_recipe(
        tmp_path,
        f"stage2.encoder={encoder}",
        "stage2.heads=vector",
        "export.conditioning=vector",
        "export.weights=adapter",
        f"export.dir={tmp_path}/out/alone",
    )
    weights = load_file(encoder / "model.safetensors")
    run_recipe(recipe)
    copied = load_file(tmp_path / "out/alone/preference_encoder/model.safetensors")
    assert all(torch.equal(copied[name], tensor) for name, tensor in weights.items())
    assert served(tmp_path, "alone").vectors is not None
