"""A tiny data folder of the real format, and settings that train in a second."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from training.build_pairs import BuildConfig
from training.config import (
    BaseConfig,
    DemoConfig,
    LoopConfig,
    ModelConfig,
    PersRMConfig,
    TokenizerConfig,
)

CITIES = ("Oslo", "Lima", "Rome", "Cairo", "Quito", "Perth")


def _dialogue(city: str) -> dict[str, Any]:
    return {
        "id": city,
        "services": ["Hotels_1"],
        "turns": [
            {"speaker": "user", "text": f"Find a hotel in {city}."},
            {
                "speaker": "assistant",
                "text": f"The {city} Inn has 4 stars.",
                "before": ["Good choice."],
                "after": ["I hope you enjoy it!", "It is a great place."],
                "acts": ["OFFER(hotel_name)"],
            },
            {"speaker": "user", "text": "Thanks, that is all."},
            {"speaker": "assistant", "text": "Have a nice day.", "acts": ["GOODBYE"]},
        ],
    }


def _context(city: str) -> list[dict[str, str]]:
    return [{"speaker": "user", "text": f"Find a hotel in {city}."}]


def _candidate(city: str) -> dict[str, Any]:
    texts = (f"{city} Inn.", f"I have found the {city} Inn for you, a good hotel.")
    counts = dict.fromkeys(("excl", "quest", "formal", "casual", "details", "chat"), 0)
    replies = [{"text": text, "words": len(text.split()), **counts} for text in texts]
    return {"id": city, "context": _context(city), "candidates": replies}


def _pair(city: str, preference: str) -> dict[str, Any]:
    replies = [f"{city} Inn.", f"I have found the {city} Inn for you, a good hotel."]
    chosen, rejected = replies if preference == "Be brief." else reversed(replies)
    return {
        "context": _context(city),
        "preference": preference,
        "dims": [{"dim": "brevity", "direction": "short"}],
        "persona": None,
        "chosen": chosen,
        "rejected": rejected,
    }


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete data folder with six dialogues."""
    folder = tmp_path_factory.mktemp("data")
    dialogues = [_dialogue(city) for city in CITIES]
    pairs = [_pair(city, wish) for city in CITIES for wish in ("Be brief.", "Write more.")]
    for split in ("train", "dev"):
        _write(folder / f"lm/dialogues_{split}.jsonl.gz", dialogues)
        _write(folder / f"preferences/pairs_{split}.jsonl.gz", pairs)
    candidates = [_candidate(city) for city in CITIES]
    _write(folder / "preferences/candidates_train.jsonl.gz", candidates)
    _write(folder / "eval/prompts_dev.jsonl", [{"context": _context(city)} for city in CITIES])
    phrases = {
        "brevity": {"short": {"phrases_train": ["Be brief."]}, "long": {"phrases_train": ["More."]}}
    }
    (folder / "preferences/preferences.json").write_text(json.dumps({"dimensions": phrases}))
    return folder


_TINY_PERSRM = (
    "reading.num_steps=2",
    "reading.probe_layer=1",
    "stage1.num_steps=2",
    "stage2.num_steps=2",
    "stage2.width=8",
)


def _loop(num_steps: int) -> LoopConfig:
    return LoopConfig(
        num_steps=num_steps,
        tokens_per_batch=256,
        learning_rate=5e-3,
        final_lr_share=0.1,
        warmup_steps=1,
        weight_decay=0.0,
        num_workers=1,
    )


@pytest.fixture
def tiny(tmp_path: Path) -> DemoConfig:
    """Settings for three steps of a model with 16 dimensions."""
    return DemoConfig(
        TokenizerConfig(vocab_size=320),
        ModelConfig(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=24),
        replace(BaseConfig(), loop=_loop(3)),
        ModelConfig(hidden_size=8, num_layers=1, num_heads=2, intermediate_size=12),
        replace(BaseConfig(), loop=_loop(2)),
        PersRMConfig(
            pairs=BuildConfig(num_single=4, num_combined=2),
            overrides=_TINY_PERSRM,
            run_folder=tmp_path / "run",
            num_processes=1,
        ),
    )
