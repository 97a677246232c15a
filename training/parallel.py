"""Work shared out over the processes of a run, its result kept in a file of the run folder."""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]


def write_tensors(tensors: Tensors, path: Path) -> None:
    """Write a safetensors file that is there whole or not at all."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    save_file({name: value.contiguous() for name, value in tensors.items()}, unfinished)
    unfinished.chmod(0o644)  # safetensors writes for the owner alone
    unfinished.replace(path)


def own_range(count: int, state: PartialState) -> range:
    """Return the items of `count` that are this process's."""
    rank, size = state.process_index, state.num_processes
    return range(count * rank // size, count * (rank + 1) // size)


def in_parts(
    state: PartialState, path: Path, count: int, compute: Callable[[range], Tensors]
) -> Tensors:
    """Return tensors computed part by part, from `path` if a run has written them there.

    Args:
        count: number of items, split into one range a process.
        compute: returns a range's tensors; those of all ranges are joined along dimension 0.
    """
    if not path.is_file():
        own = path.with_name(f"{path.name}.part{state.process_index}")
        write_tensors(compute(own_range(count, state)), own)
        state.wait_for_everyone()
        if state.is_main_process:
            parts = [path.with_name(f"{path.name}.part{i}") for i in range(state.num_processes)]
            loaded = [load_file(part) for part in parts]
            joined = {name: torch.cat([part[name] for part in loaded]) for name in loaded[0]}
            write_tensors(joined, path)
            for part in parts:
                part.unlink()
    state.wait_for_everyone()
    return load_file(path)
