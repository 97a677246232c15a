"""Whole runs at tiny size: reading, stage 1, all heads, export, and what serving makes of it."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reward_svc.model import PersRM, load_pers_rm
from reward_svc.prompts import THETA
from reward_svc.settings import RewardSettings
from tests.training.recipes import tiny_recipe, write_recipe
from training.pair_encoding import PairEncoder
from training.pair_file import read_pair_files
from training.recipe_file import RecipeError
from training.run import run_recipe
from training.runner import read_losses
from training.train import main

ARCHITECTURES = ["llama", "mistral", "gemma", "qwen2"]
OTHER = {
    "full": ("model.tuning=full", "compute.autocast=bfloat16"),
    # as training/recipes/llama-3-8b.toml has them
    "qwen2": (
        "model.dtype=bfloat16",
        "model.gradient_checkpointing=true",
        "compute.autocast=bfloat16",
        "stage2.cache_hidden=false",
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each architecture, by LoRA, and one with full tuning."""
    torch.set_num_threads(1)
    folders = {name: tmp_path_factory.mktemp(name) for name in [*ARCHITECTURES, "full"]}
    for name, folder in folders.items():
        architecture = "llama" if name == "full" else name
        run_recipe(tiny_recipe(folder, *OTHER.get(name, ()), architecture=architecture))
    return folders


def served(folder: Path, conditioning: str) -> PersRM:
    return load_pers_rm(
        RewardSettings(
            model_dir=folder / "run/model",
            backbone_dir=str(folder / "base"),
            conditioning=conditioning,
            dtype="float32",
            device="cpu",
        )
    )


@pytest.mark.parametrize("name", [*ARCHITECTURES, "full"])
def test_a_run_leaves_a_model_that_is_served_in_every_conditioning(
    runs: dict[str, Path], name: str
) -> None:
    for conditioning in ("prompt", "vector", "both"):
        model = served(runs[name], conditioning)
        assert model.has_reference
        assert (model.vectors is not None) == (conditioning != "prompt")


@pytest.mark.parametrize("name", [*ARCHITECTURES, "full"])
def test_a_run_notes_losses_figures_and_settings(runs: dict[str, Path], name: str) -> None:
    run = runs[name] / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    for phase, num_steps in (("reading", 2), ("stage1", 3), ("value", 3), ("vector", 3)):
        losses = read_losses(run / phase)
        assert [line["step"] for line in losses] == list(range(1, num_steps + 1))
        assert metrics[phase]["num_steps"] == num_steps
    assert metrics["stage1_dev"]["num_pairs"] == 5
    assert metrics["stage1_dev"]["num_pairs_unseen_phrasings"] == 1
    assert set(metrics["both_dev"]["accuracy_by_label"]) == {"brevity:long", "brevity:short"}
    assert (run / "losses.png").stat().st_size > 1000
    card = (run / "model/README.md").read_text()
    assert "| stage1.learning_rate | 0.01 |" in card
    assert "REWARD_MODEL_DIR" in card
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (run / "model" / file).read_bytes() == (runs[name] / "base" / file).read_bytes()


@pytest.mark.parametrize("name", ["llama", "gemma", "full"])
def test_served_rewards_rank_dev_pairs_as_training_measured(
    runs: dict[str, Path], name: str
) -> None:
    """Each dev pair's margin under the value head, token by token in the reward service's model."""
    folder = runs[name]
    model = served(folder, "prompt")
    encoder = PairEncoder(folder / "base")
    recipe_scores = load_file(folder / "run/value/dev-scores.safetensors")["scores"]
    pairs = read_pair_files([folder / "dev.jsonl"])
    tolerance = 2e-3 if name != "full" else 0.6  # training's products were in bfloat16
    for pair, row in zip(pairs, recipe_scores.tolist(), strict=True):
        encoded = encoder.encode(pair)
        for reply, expected in zip((encoded.chosen, encoded.rejected), row, strict=True):
            prompt = list(encoded.guided_prompt)
            runner = model.new_runner(1)
            ids = [*prompt, *reply]
            hidden = runner.append(runner.open(THETA), ids, all_positions=True)  # [T, D]
            log_probs = model.heads[0].logits(hidden[len(prompt) - 1 : -1]).log_softmax(-1)
            found = log_probs.gather(1, torch.tensor(reply).unsqueeze(1)).sum().item()
            assert found == pytest.approx(expected, abs=tolerance)


def test_a_finished_run_is_not_trained_again_and_exports_otherwise(
    runs: dict[str, Path],
) -> None:
    folder = runs["llama"]
    weights = folder / "run/stage1/weights.safetensors"
    before = weights.stat().st_mtime_ns
    target = folder / "other"
    run_recipe(
        tiny_recipe(
            folder,
            "export.weights=adapter",
            "export.conditioning=vector",
            f"export.dir={target}",
            "export.heads=vector",
        )
    )
    assert weights.stat().st_mtime_ns == before
    assert (target / "adapter_model.safetensors").is_file()
    assert not (target / "value_head.safetensors").exists()
    config = json.loads((target / "pad_config.json").read_text())
    assert config == {"stage": 2, "conditioning": "vector"}


def test_merged_weights_keep_their_adapter(runs: dict[str, Path]) -> None:
    model = runs["gemma"] / "run/model"
    assert (model / "adapter/adapter_config.json").is_file()
    merged, base = (
        load_file(path / "model.safetensors") for path in (model, runs["gemma"] / "base")
    )
    assert merged.keys() == base.keys()
    assert any(not torch.equal(merged[name], base[name]) for name in base)


def test_a_changed_setting_of_a_begun_phase_is_refused(runs: dict[str, Path]) -> None:
    message = r"^stage1.learning_rate: must stay 0.01, with which .*/run/.* was begun, got 0.5;"
    with pytest.raises(RecipeError, match=message):
        run_recipe(tiny_recipe(runs["mistral"], "stage1.learning_rate=0.5"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("export.conditioning=both", "export.conditioning: must be prompt or a head of"),
        ("model.base=nowhere", "model.base=nowhere: "),
        ("reading.probe_layer=9", "reading.probe_layer: must be at most the model's number of"),
        ("reading.probe_start=500", "reading.probe_start: must be below the number of tokens"),
        ("data.max_tokens=64", "data.max_tokens: must leave some pairs, the shortest of which has"),
        ("data.max_tokens=4096", "data.max_tokens: must be at most the context length 512 of"),
    ],
)
def test_a_run_that_cannot_work_ends_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*write_recipe(tmp_path), "--set", "stage2.heads=[]", "--set", override])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage2.encoder=nowhere", "stage2.encoder: nowhere: must be a transformers folder"),
        ("data.dev=nowhere.jsonl", "nowhere.jsonl: cannot be read"),
    ],
)
def test_what_later_phases_need_is_looked_for_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*write_recipe(tmp_path), "--set", override])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(message)
    assert not list((tmp_path / "run").glob("*/*.safetensors"))


def test_training_that_diverges_ends_without_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = ["--set", "stage1.learning_rate=1e30", "--set", "stage1.max_grad_norm=0"]
    with pytest.raises(SystemExit) as caught:
        main([*write_recipe(tmp_path), "--set", "reading.num_steps=0", *rate])
    assert caught.value.code == 1
    message = r"stage1, step \d: .* must be finite.*; lower stage1.learning_rate, which is 1e\+30"
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run/stage1/weights.safetensors").exists()
    assert not (tmp_path / "run/model").exists()
