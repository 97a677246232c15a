"""A tiny data folder with all preferences, and tiny models by the names that evaluation reads."""

import gzip
import json
import os
import signal
from pathlib import Path
from typing import Any

from evaluation.contenders import Plan
from evaluation.replies import Folders, work_through
from evaluation.user_lora import UserLoraConfig
from tests.tiny_model import save_tiny_model
from training.wishes import OPPOSITES

NUM_PROMPTS = 3
PLAN = Plan(
    num_prompts=2,
    num_sweep_prompts=1,
    num_jobs=1,
    max_new_tokens=4,
    in_context_tokens=120,
    betas=(1.0, 2.0),
    candidate_counts=(3,),
    candidate_betas=(1.0,),
    sample_counts=(1, 2),
    example_counts=(2,),
    user_lora=UserLoraConfig(num_pairs=4, num_held_out=2, rank=2, alpha=2),
)


def _side(name: str) -> dict[str, list[str]]:
    return {"phrases_train": [f"{name}!", f"Be {name}."], "phrases_dev": [f"So {name}."]}


def _pair(dimension: str, side: str, number: int) -> dict[str, Any]:
    return {
        "context": [{"speaker": "user", "text": f"Hi {number}."}],
        "preference": f"Be {side}.",
        "dims": [{"dim": dimension, "direction": side}],
        "chosen": side,
        "rejected": "Hm.",
    }


def write_data(folder: Path) -> Path:
    """Write the files that replies are made from."""
    for name in ("preferences", "eval"):
        (folder / name).mkdir(parents=True)
    dimensions = {name: {side: _side(side) for side in sides} for name, sides in OPPOSITES.items()}
    personas = [{"id": "p01", "wishes": {"brevity": "short", "warmth": "businesslike"}}]
    text = json.dumps({"dimensions": dimensions, "personas": personas})
    (folder / "preferences/preferences.json").write_text(text)
    pairs = [
        _pair(name, side, number)
        for name, sides in OPPOSITES.items()
        for side in sides
        for number in range(7)
    ]
    lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
    (folder / "preferences/pairs_train.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    prompts = [
        {"id": f"e{i}", "context": [{"speaker": "user", "text": "Hello" + "." * i}]}
        for i in range(NUM_PROMPTS)
    ]
    (folder / "eval/prompts_dev.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    return folder


def write_models(folder: Path) -> Path:
    """Write a base, a reward model of other weights, and a base of yet others."""
    for seed, name in enumerate(("demo-base", "demo-persrm", "demo-base-small")):
        save_tiny_model(folder / name, seed=seed)
    (folder / "demo-persrm/pad_config.json").write_text('{"stage": 1}')
    return folder


def work_until_killed(
    folders: Folders, plan: Plan, todo: Any, claimed: Any, done: Any, num_replies: int
) -> None:
    """Work in this process until so many replies are there, and then be killed."""

    def kill() -> None:
        if done.value == num_replies:
            os.kill(os.getpid(), signal.SIGKILL)

    work_through(0, folders, plan, todo, claimed, done, kill)
