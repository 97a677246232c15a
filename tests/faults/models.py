"""Tiny model folders for a whole stack: a base, a backbone, and two versions of a reward model."""

import json
from dataclasses import dataclass
from pathlib import Path

from tests.tiny_model import save_tiny_model

SEEDS = {"base": 11, "backbone": 12, "theta-a": 13, "theta-b": 14}


@dataclass(frozen=True)
class Folders:
    """Where a stack's models lie; `theta` names one folder a version."""

    base: Path
    backbone: Path
    theta: dict[str, Path]


def save_tiny_folders(parent: Path) -> Folders:
    """Write the four models."""
    folders = {name: save_tiny_model(parent / name, seed=seed) for name, seed in SEEDS.items()}
    for name in ("theta-a", "theta-b"):
        (folders[name] / "pad_config.json").write_text(json.dumps({"stage": 1}))
    theta = {"a": folders["theta-a"], "b": folders["theta-b"]}
    return Folders(folders["base"], folders["backbone"], theta)


def demo_folders(models: Path) -> Folders:
    """Return the bundled demo models: one version alone."""
    return Folders(models / "demo-base", models / "demo-base", {"a": models / "demo-persrm"})
