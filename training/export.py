"""Write the reward model folder that the reward service and the evaluation read."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from reward_svc.pad_config import CONFIG_NAME
from reward_svc.preference_head import PreferenceHead, save_preference_head
from reward_svc.value_head import BIAS, FILE_NAME, PICKLE_NAME, WEIGHT
from svc_common.lm.adapters import CONFIG_NAME as ADAPTER_CONFIG
from svc_common.lm.adapters import WEIGHTS_NAME as ADAPTER_WEIGHTS
from svc_common.lm.loading import DTYPES
from training.backbone import Backbone
from training.heads import Heads, LinearHead, VectorHead
from training.recipe import Recipe
from training.recipe_file import RecipeError

ADAPTER_FOLDER = "adapter"
ENCODER_FOLDER = "preference_encoder"
_TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
    "generation_config.json",
)
# What an earlier export wrote and this one may not: the layouts differ with export.weights.
_REPLACED = ("*.safetensors", "*.safetensors.index.json", "config.json", ADAPTER_CONFIG)


def check_export(recipe: Recipe) -> None:
    """Refuse, before hours of training, an export that cannot be made.

    Raises:
        RecipeError: settings contradict each other.
    """
    export = recipe.export
    if export.weights == "adapter" and recipe.model.tuning != "lora":
        raise RecipeError("export.weights: must be merged with model.tuning full, got 'adapter'")
    if export.conditioning != "prompt" and export.conditioning not in exported_heads(recipe):
        rule = "must be prompt or a head of stage2.heads and export.heads"
        raise RecipeError(f"export.conditioning: {rule}, got {export.conditioning!r}")
    _check_target(recipe, target_folder(recipe))


def target_folder(recipe: Recipe) -> Path:
    """Return the folder that the reward model is written to."""
    return Path(recipe.export.dir) if recipe.export.dir else Path(recipe.out) / "model"


def _check_target(recipe: Recipe, folder: Path) -> None:
    """Refuse a folder in which the export would delete what is not its own."""
    target, encoder = folder.resolve(), recipe.stage2.encoder
    if target == Path(recipe.out).resolve():
        raise RecipeError(f"export.dir: must be another folder than the run's, got {folder}")
    for name, source in (("model.base", recipe.model.base), ("stage2.encoder", encoder)):
        if source and Path(source).resolve().is_relative_to(target):
            rule = f"must not be or hold {name} ({source}), whose files it would replace"
            raise RecipeError(f"export.dir: {rule}, got {folder}")
    if encoder and target.is_relative_to(Path(encoder).resolve()):
        rule = f"must not lie in stage2.encoder ({encoder}), which is copied into it"
        raise RecipeError(f"export.dir: {rule}, got {folder}")
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"export.dir: must be a folder, got the file {folder}")
    if (folder / CONFIG_NAME).is_file():
        return
    patterns = (*_REPLACED, PICKLE_NAME, ADAPTER_FOLDER, ENCODER_FOLDER)
    if foreign := sorted(path.name for pattern in patterns for path in folder.glob(pattern)):
        rule = f"must be new, or hold a reward model ({CONFIG_NAME})"
        raise RecipeError(f"export.dir: {rule}, got {folder}, which holds {foreign[0]}")


def exported_heads(recipe: Recipe) -> list[str]:
    """Return the heads that the recipe trains and exports."""
    trained = recipe.stage2.heads if recipe.stage2.num_steps else ()
    return [name for name in trained if name in recipe.export.heads]


def export_model(recipe: Recipe, backbone: Backbone, heads: Heads, folder: Path) -> None:
    """Write the reward model into `folder`, replacing what an earlier export wrote there.

    With merged weights the backbone is merged in memory as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_config(recipe, folder)  # first: `check_export` then knows a half-written folder
    for pattern in (*_REPLACED, PICKLE_NAME):
        for old in folder.glob(pattern):
            old.unlink()
    shutil.rmtree(folder / ADAPTER_FOLDER, ignore_errors=True)
    shutil.rmtree(folder / ENCODER_FOLDER, ignore_errors=True)
    _write_weights(recipe, backbone, folder)
    copy_files(Path(recipe.model.base), folder, _TOKENIZER_FILES)
    for name in exported_heads(recipe):
        head = heads[name]
        if isinstance(head, LinearHead):
            write_value_head(head.weight().detach(), head.bias.detach(), folder / FILE_NAME)
        else:
            _write_vector_head(head, folder / f"{name}_head.safetensors")
    if recipe.stage2.encoder and set(exported_heads(recipe)) & {"vector", "both"}:
        shutil.copytree(recipe.stage2.encoder, folder / ENCODER_FOLDER)


def write_value_head(weight: Tensor, bias: Tensor, path: Path) -> None:
    """Write a value head in the format of PAD's released checkpoint, float32.

    Args:
        weight: `[D, D]`.
        bias: `[D]`.
        path: `.safetensors`.
    """
    tensors = {
        WEIGHT: weight.float().cpu().contiguous(),
        BIAS: bias.float().cpu().contiguous(),
    }
    save_file(tensors, path)
    path.chmod(0o644)  # safetensors writes for the owner alone


def copy_files(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    """Copy the files of a folder that match, byte for byte."""
    for pattern in patterns:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, target / path.name)


def _write_weights(recipe: Recipe, backbone: Backbone, folder: Path) -> None:
    """Write the adapter alone, which names its base, or the merged weights with it beside them."""
    is_alone = recipe.export.weights == "adapter"
    if backbone.adapter is not None:
        own = folder if is_alone else folder / ADAPTER_FOLDER
        write_adapter(backbone.adapter, Path(recipe.model.base), own)
    if is_alone:
        return
    model = backbone.model
    if backbone.adapter is not None:
        model = backbone.adapter.merge_and_unload()
        backbone.model, backbone.adapter = model, None
    written = AutoModelForCausalLM.from_config(model.config)
    written.load_state_dict(model.state_dict())
    written.to(DTYPES[recipe.export.dtype])
    written.config.dtype = DTYPES[recipe.export.dtype]
    written.save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)


def write_adapter(adapter: PeftModel, base: Path, folder: Path) -> None:
    """Write a LoRA adapter that `svc_common.lm.adapters` loads.

    Args:
        adapter: the trained one.
        base: folder of the model that it changes.
        folder: to write to; both folders may be moved together.
    """
    card = folder / "README.md"
    card.unlink(missing_ok=True)  # peft would add to it
    adapter.save_pretrained(str(folder))
    card.unlink(missing_ok=True)
    (folder / ADAPTER_WEIGHTS).chmod(0o644)
    path = folder / ADAPTER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    # peft names the base as seen from the working directory of the training.
    config["base_model_name_or_path"] = os.path.relpath(base.resolve(), folder.resolve())
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_vector_head(head: VectorHead, path: Path) -> None:
    inner: PreferenceHead = head.head
    save_preference_head(inner, path)


def _write_config(recipe: Recipe, folder: Path) -> None:
    """Say of which stage the folder is: the reward service asks for a value head from 2 on."""
    conditioning = recipe.export.conditioning
    has_value_head = "value" in exported_heads(recipe) and recipe.export.use_value_head
    is_stage_2 = has_value_head or conditioning != "prompt"
    config: dict[str, Any] = {"stage": 2 if is_stage_2 else 1, "conditioning": conditioning}
    (folder / CONFIG_NAME).write_text(json.dumps(config) + "\n", encoding="utf-8")
