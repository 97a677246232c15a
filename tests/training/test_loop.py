from pathlib import Path

import torch
from torch import nn

from training.loop import average_gradients, run_workers

GRADIENTS = ([1.0, 5.0], [3.0, -1.0])


def write_averaged_gradient(rank: int, folder: Path) -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor(GRADIENTS[rank])
    average_gradients([parameter], num_workers=2)
    (folder / f"rank{rank}").write_text(str(parameter.grad.tolist()))


def test_two_workers_share_the_mean_gradient(tmp_path: Path) -> None:
    run_workers(write_averaged_gradient, num_workers=2, seed=0, folder=tmp_path)
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["[2.0, 2.0]"] * 2


def test_one_worker_runs_alone(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor(GRADIENTS[0])
    average_gradients([parameter], num_workers=1)
    assert parameter.grad.tolist() == GRADIENTS[0]
