"""Two processes on one machine train what one does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.recipes import write_recipe
from training.train import main

ROOT = Path(__file__).parents[2]
OPTIONS = ("stage2.heads=value", "model.lora_dropout=0.0", "data.dev=[]", "reading.num_steps=0")


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    options = [part for option in OPTIONS for part in ("--set", option)]
    arguments = [*write_recipe(tmp_path), *options, "--out"]
    command = [sys.executable, "-m", "training.launch", "--processes", "2"]
    subprocess.run([*command, *arguments, str(tmp_path / "two")], cwd=ROOT, check=True)
    main([*arguments, str(tmp_path / "one")])
    for phase in ("stage1", "value"):
        one, two = (
            load_file(tmp_path / name / phase / "weights.safetensors") for name in ("one", "two")
        )
        assert one.keys() == two.keys()
        assert all(torch.allclose(one[name], two[name], atol=2e-4) for name in one)


def test_groups_that_cannot_be_shared_out_are_refused(tmp_path: Path) -> None:
    options = [part for option in OPTIONS for part in ("--set", option)]
    command = [sys.executable, "-m", "training.launch", "--processes", "2"]
    arguments = [*write_recipe(tmp_path), *options, "--set", "stage1.groups_per_step=3"]
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    rule = "stage1.groups_per_step: must be a multiple of the number of processes 2, got 3"
    assert rule in done.stderr
    assert "Traceback" not in done.stderr
