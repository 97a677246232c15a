"""Tiny pair files, model folders and recipes."""

import json
from pathlib import Path
from typing import Any

from tests.tiny_model import save_tiny_model
from training.recipe import Recipe
from training.recipe_file import read_recipe

CITIES = ("Oslo", "Lima", "Rome", "Cairo", "Quito", "Perth")
WISHES = {"Be brief.": "brevity:short", "Write more.": "brevity:long"}
RECIPE = """
seed = 3
[data]
max_tokens = 512
[compute]
device = "cpu"
threads = 1
autocast = "none"
checkpoint_steps = 4
[model]
lora_rank = 2
lora_dropout = 0.1
[reading]
num_steps = 2
tokens_per_group = 1200
groups_per_step = 2
learning_rate = 1e-3
warmup_steps = 1
probe_start = 40
[stage1]
num_steps = 3
tokens_per_group = 1200
groups_per_step = 2
learning_rate = 1e-2
warmup_steps = 1
nll_weight = 0.1
[stage2]
heads = ["value", "vector", "both"]
num_steps = 3
tokens_per_group = 1200
groups_per_step = 2
learning_rate = 1e-2
warmup_steps = 1
width = 8
cache_hidden = true
[export]
dtype = "float32"
"""


def pair_row(city: str, wish: str) -> dict[str, Any]:
    """Return a pair in the documented format; the two wishes make it a flip pair."""
    replies = [f"{city} Inn.", f"I found the {city} Inn."]
    chosen, rejected = replies if wish == "Be brief." else reversed(replies)
    return {
        "context": [{"role": "user", "content": f"A hotel in {city}?"}],
        "preference": wish,
        "chosen": chosen,
        "rejected": rejected,
        "labels": [WISHES.get(wish, "brevity:short")],
    }


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Write JSON Lines and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_recipe(folder: Path, architecture: str = "llama") -> list[str]:
    """Write model, pairs and recipe into `folder`; return the arguments that train them."""
    base = folder / "base"
    if not base.is_dir():
        save_tiny_model(base, architecture)
    rows = [pair_row(city, wish) for city in CITIES for wish in WISHES]
    dev = [*rows[:4], pair_row("Oslo", "Keep it short.")]
    paths = {
        "data.train": write_rows(folder / "pairs.jsonl", rows),
        "data.dev": write_rows(folder / "dev.jsonl", dev),
        "model.base": base,
        "out": folder / "run",
    }
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    options = [part for name, path in paths.items() for part in ("--set", f"{name}={path}")]
    return [str(folder / "recipe.toml"), *options]


def tiny_recipe(folder: Path, *overrides: str, architecture: str = "llama") -> Recipe:
    """Return the recipe of `write_recipe` with other settings."""
    path, *options = write_recipe(folder, architecture)
    return read_recipe(Path(path), [*options[1::2], *overrides])
