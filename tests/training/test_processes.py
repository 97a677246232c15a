"""Two processes on one machine train what one does."""

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.recipes import write_recipe, write_rows
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


@pytest.mark.slow
def test_a_failure_in_two_processes_is_told_once(tmp_path: Path) -> None:
    """The last pair is the second process's to encode: the first one's failure is a consequence."""
    arguments = [*write_recipe(tmp_path), "--set", "data.dev=[]", "--processes", "2"]
    path = tmp_path / "pairs.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_rows(path, [*rows, {**rows[0], "preference": "Be <|end|> brief."}])
    command = [sys.executable, "-m", "training.launch", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"{path} line 13: ")
    assert done.stderr.count("line 13") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends processes with their parent")
def test_two_processes_end_with_a_killed_parent(tmp_path: Path) -> None:
    """Which the lock tells: the kernel frees it with the process that holds it."""
    arguments = [*write_recipe(tmp_path), "--set", "stage1.num_steps=5000", "--processes", "2"]
    start = f"from pad_client.cli.app import app; app({['train', *arguments]!r})"
    parent = subprocess.Popen([sys.executable, "-c", start], cwd=ROOT, stderr=subprocess.PIPE)
    assert parent.stderr is not None
    while b"reading: {" not in (line := parent.stderr.readline()):
        assert line, "ended early"
    with (tmp_path / "run/lock").open() as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        parent.kill()
        parent.stderr.read()  # ends with the last process that has it
        parent.wait()
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    parent.stderr.close()


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
