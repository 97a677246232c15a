"""The folder of a run: what each phase was begun with, and what it has left.

inputs/           token ids, reference log-probabilities
hidden/           frozen hidden states, while the heads train
reading/ stage1/  checkpoints, then weights.safetensors; loss.jsonl
value/ vector/ both/   the same, of each head
metrics.json, losses.png
lock              held by the run that writes the folder
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState

from svc_common.lm.loading import fingerprint
from training.recipe import Recipe
from training.recipe_file import RecipeError, flatten

SETTINGS_FILE = "settings.json"
METRICS_FILE = "metrics.json"
LOCK_FILE = "lock"
# What may differ when a run goes on.
_FREE = (
    "out",
    "compute.device",
    "compute.threads",
    "compute.checkpoint_steps",
    "compute.keep_checkpoints",
    "export.",
)
_SECTIONS = ("reading.", "stage1.", "stage2.")
_PHASES = {"inputs": 0, "reading": 1, "stage1": 2, "hidden": 2}  # a head: 3


class RunFolder:
    """A run's folder; its phases may only go on as they were begun.

    Args:
        recipe: the run's settings.
        state: the processes; the first one writes.
    """

    def __init__(self, recipe: Recipe, state: PartialState) -> None:
        self.path = Path(recipe.out)
        self._state = state
        self._settings = flatten(recipe) | _contents(recipe)

    def phase(self, name: str) -> Path:
        """Return the folder of a phase, made if need be.

        Raises:
            RecipeError: the phase was begun with other settings.
        """
        folder = self.path / name
        mine = self._of_phase(name)
        path = folder / SETTINGS_FILE
        if path.is_file():
            _check_same(json.loads(path.read_text(encoding="utf-8")), mine, folder)
        self._state.wait_for_everyone()
        if self._state.is_main_process and not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _write_json(mine, path)
        self._state.wait_for_everyone()
        return folder

    def check(self) -> None:
        """Refuse a recipe that differs from that of a phase that was begun.

        Raises:
            RecipeError: it does.
        """
        for path in sorted(self.path.glob(f"*/{SETTINGS_FILE}")):
            begun = json.loads(path.read_text(encoding="utf-8"))
            _check_same(begun, self._of_phase(path.parent.name), path.parent)

    def update_metrics(self, figures: dict[str, Any]) -> dict[str, Any]:
        """Add figures to the run's metrics and return all of them; {} but in the first process."""
        if not self._state.is_main_process:
            return {}
        path = self.path / METRICS_FILE
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        metrics = {**before, **figures}
        _write_json(metrics, path)
        return metrics

    def _of_phase(self, name: str) -> dict[str, Any]:
        """Return the settings that a phase's result depends on."""
        later = _SECTIONS[_PHASES.get(name, 3) :]
        left_out = (*_FREE, *later, "stage2.heads")
        return {key: v for key, v in self._settings.items() if not key.startswith(left_out)}


@contextmanager
def run_lock(recipe: Recipe) -> Iterator[None]:
    """Keep every other run out of the recipe's run folder; the first process holds the lock.

    The lock goes with the process, however that ends.

    Raises:
        RecipeError: another run writes the folder, or the folder cannot be written.
    """
    if int(os.environ.get("RANK", "0")):
        yield
        return
    folder = Path(recipe.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("a")
    except OSError as error:
        raise RecipeError(f"out: {folder} cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RecipeError(f"out: another run is writing {folder}") from error
        yield


def _write_json(value: dict[str, Any], path: Path) -> None:
    """Write a file that is there whole or not at all."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _contents(recipe: Recipe) -> dict[str, Any]:
    """Return what tells whether files behind the settings have changed."""
    base, files = Path(recipe.model.base), (*recipe.data.train, *recipe.data.dev)
    found: dict[str, Any] = {
        f"sha256 of {name}": _sha256(Path(name)) for name in files if Path(name).is_file()
    }
    if (base / "config.json").is_file():
        found[f"fingerprint of {base}"] = fingerprint(base)
    return found


def _check_same(begun: dict[str, Any], mine: dict[str, Any], folder: Path) -> None:
    for name in begun:
        if begun[name] != mine.get(name):
            rule = f"must stay {begun[name]!r}, with which {folder} was begun"
            hint = "choose another folder with --out, or delete this one"
            raise RecipeError(f"{name}: {rule}, got {mine.get(name)!r}; {hint}")
