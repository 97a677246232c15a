"""A run that is killed and started again gives the weights of one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.recipes import write_recipe
from training.runner import LOSS_FILE, WEIGHTS_FILE, read_losses
from training.train import main

OPTIONS = ("--set", "stage1.num_steps=24", "--set", "stage2.heads=[]", "--set", "data.dev=[]")
ROOT = Path(__file__).parents[2]


def wait_for(path: Path, pattern: str, process: "subprocess.Popen[bytes]") -> None:
    give_up_at = time.monotonic() + 120
    while not any(path.glob(pattern)):
        assert process.poll() is None
        assert time.monotonic() < give_up_at
        time.sleep(0.005)  # a file system offers no event to wait on


@pytest.mark.parametrize("tuning", ["lora"])
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, tuning: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = [*write_recipe(tmp_path), *OPTIONS, "--set", f"model.tuning={tuning}", "--out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "training.train", *arguments, str(killed)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    main([*arguments, str(whole)])
    wait_for(killed / "stage1", "checkpoint-*", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "stage1" / WEIGHTS_FILE).exists()
    main([*arguments, str(killed)])
    expected, found = (load_file(run / "stage1" / WEIGHTS_FILE) for run in (whole, killed))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    for phase in ("reading", "stage1"):
        losses = [[line["loss"] for line in read_losses(run / phase)] for run in (whole, killed)]
        assert losses[0] == losses[1]
    assert (killed / "stage1" / LOSS_FILE).is_file()
    assert not list((killed / "stage1").glob("checkpoint-*"))
