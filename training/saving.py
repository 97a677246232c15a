"""Writing model folders: bfloat16 weights, generation settings, measured figures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaForCausalLM

METRICS_FILE = "metrics.json"


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write `model` in bfloat16, and round the model in memory to what was written."""
    model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    model.to(torch.float32)


def load_model(folder: Path) -> LlamaForCausalLM:
    """Load a saved model in float32 for evaluation or further training."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the measured figures of a model folder."""
    metrics: dict[str, Any] = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    return metrics


def update_metrics(folder: Path, figures: dict[str, Any]) -> None:
    """Add `figures` to the folder's metrics file."""
    path = folder / METRICS_FILE
    metrics = read_metrics(folder) if path.is_file() else {}
    path.write_text(json.dumps({**metrics, **figures}, indent=1) + "\n", encoding="utf-8")


def forget_metrics(folders: Sequence[Path]) -> None:
    """Remove the figures of an earlier run."""
    for folder in folders:
        (folder / METRICS_FILE).unlink(missing_ok=True)
