"""`pad train` runs the trainer as a child and ends with its status."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pad_client.cli import train as train_command
from pad_client.cli.app import app

FAKE_TRAINER = """
import sys
from pathlib import Path
Path("arguments.txt").write_text("\\n".join(sys.argv[1:]))
sys.exit(3)
"""


def test_the_trainer_gets_recipe_and_settings_and_its_status_is_pads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fake_trainer.py").write_text(FAKE_TRAINER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(train_command, "_MODULE", "fake_trainer")
    result = CliRunner().invoke(
        app,
        ["train", "r.toml", "--processes", "2", "--set", "seed=1", "--set", "a.b=c", "--out", "d"],
    )
    assert result.exit_code == 3
    expected = "r.toml --processes 2 --set seed=1 --set a.b=c --out d"
    assert (tmp_path / "arguments.txt").read_text().split("\n") == expected.split()


def test_missing_packages_are_named_with_the_extra_that_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find: Callable[..., object] = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "peft" else find(name, *a)
    )
    result = CliRunner().invoke(app, ["train", "r.toml"])
    assert result.exit_code == 1
    assert "not installed: peft" in result.stderr
    assert "pip install ./client '.[train]'" in result.stderr


def test_a_child_killed_by_a_signal_gives_the_shells_status() -> None:
    command = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    assert train_command.run_child(command) == 137
