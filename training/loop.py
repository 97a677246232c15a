"""The training loop of both models: data-parallel worker processes, AdamW, cosine schedule."""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm

from training.config import LoopConfig

Item = TypeVar("Item")
LOG_EVERY = 50  # steps


def learning_rate(step: int, config: LoopConfig) -> float:
    """Return the learning rate of `step` (0-based): linear warm-up, then half a cosine."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    share = config.final_lr_share + (1 - config.final_lr_share) * (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate * share


def make_optimizer(model: nn.Module, config: LoopConfig) -> torch.optim.Optimizer:
    """Return AdamW with weight decay on matrices only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)


def average_gradients(parameters: list[nn.Parameter], num_workers: int) -> None:
    """Replace each gradient by its mean over the workers, in one message."""
    if num_workers == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= num_workers
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()


def train_loop(
    model: nn.Module,
    items: Iterator[Item],
    loss_of: Callable[[Item], Tensor],
    config: LoopConfig,
    rank: int,
    label: str,
) -> list[float]:
    """Train `model` in place and return this worker's loss of every step.

    Args:
        items: what one step of this worker is made of; endless.
        loss_of: loss of one item, under bfloat16 autocast.
        rank: worker number; worker 0 shows the progress bar.
    """
    optimizer = make_optimizer(model, config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    losses: list[float] = []
    bar = tqdm(total=config.num_steps, desc=label, disable=rank != 0, mininterval=5.0)
    for step, item in enumerate(islice(items, config.num_steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(item)
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(parameters, config.num_workers)
        nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        bar.update()
        if step % LOG_EVERY == 0:
            recent = losses[-LOG_EVERY:]
            bar.set_postfix(loss=f"{sum(recent) / len(recent):.3f}")
    bar.close()
    return losses


def _enter(
    rank: int,
    worker: Callable[[int, Path], None],
    num_workers: int,
    seed: int,
    folder: str,
) -> None:
    """Join the process group and run `worker`."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    if num_workers > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=num_workers
        )
    worker(rank, Path(folder))
    if num_workers > 1:
        distributed.destroy_process_group()


def run_workers(
    worker: Callable[[int, Path], None], num_workers: int, seed: int, folder: Path
) -> None:
    """Run `worker(rank, folder)` in `num_workers` processes with one torch thread each.

    A single worker runs in this process.

    Args:
        worker: picklable; every rank starts from the same torch seed.
        folder: where the workers meet; must not hold a rendezvous file yet.
    """
    if num_workers == 1:
        _enter(0, worker, num_workers, seed, str(folder))
        return
    arguments = (worker, num_workers, seed, str(folder))
    spawn(_enter, arguments, nprocs=num_workers)  # type: ignore[no-untyped-call]


def run_in_scratch(worker: Callable[[int, Path], None], num_workers: int, seed: int) -> None:
    """Run the workers with a scratch folder that is removed afterwards."""
    with TemporaryDirectory() as scratch:
        run_workers(worker, num_workers, seed, Path(scratch))
