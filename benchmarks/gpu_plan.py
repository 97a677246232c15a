"""What each contender of `gpu` reads in a step, what it needs, and whether a device has that."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu_contenders import Case
from benchmarks.random_llama import memory_estimate
from svc_common.lm.static import MAX_GRAPHS
from svc_common.lm.transfers import wait_for_stream

GIB = 1 << 30
BASE = "base, graphs"
EAGER = "base, no graphs"
SHARED = "pad, one forward"
SHARED_REFERENCE = "pad, one forward, with reference"
IN_TURN = "pad, two models in turn"
OWN_PROCESS = "pad, reward in its own process"
CONTENDERS = (BASE, EAGER, SHARED, SHARED_REFERENCE, IN_TURN, OWN_PROCESS)

# A process's CUDA context, libraries' workspaces, and what prompts need; assumed, not measured.
PROCESS_BYTES = GIB
_COPIES_A_TIMING, _TIMINGS = 10, 9


def weight_bytes(name: str, case: Case) -> dict[str, int]:
    """Return the bytes of weights that one step of a contender must read, by device.

    Neither keys and values nor the candidates' rows of a reward's output layer are counted.
    """
    shape, size = case.shape, case.dtype.itemsize
    base = shape.num_in_layers + shape.num_in_head
    adapter = shape.num_adapter(case.rank)
    here = {
        SHARED: base + adapter,
        SHARED_REFERENCE: base + adapter,
        IN_TURN: base + shape.num_in_layers,
    }.get(name, base)
    result = {case.device: size * here}
    if name == OWN_PROCESS:
        there = size * (shape.num_in_layers + adapter)
        result[case.reward_device] = result.get(case.reward_device, 0) + there
    return result


def floor_ms(read: Mapping[str, int], bytes_per_s: Mapping[str, float]) -> float:
    """Return the least time that reading takes; devices read at the same time."""
    return max(1000 * count / bytes_per_s[device] for device, count in read.items())


def memory_needed(name: str, case: Case) -> dict[str, int]:
    """Return the bytes that a contender needs beside the base's weights, by device.

    The first, BASE, counts those weights and what its process takes.
    """
    batch = case.batch_size

    def needed(num_models: int, num_rows: int, rank: int = 0, graphs: int = MAX_GRAPHS) -> int:
        return memory_estimate(
            case.shape,
            case.dtype,
            num_rows=num_rows,
            context_length=case.context_length,
            num_models=num_models,
            rank=rank,
            num_graphs=graphs,
        ).total

    if name == OWN_PROCESS:
        result = {case.device: needed(0, batch)}
        there = needed(1, 2 * batch, case.rank) + _process_bytes(case.reward_device)
        result[case.reward_device] = result.get(case.reward_device, 0) + there
        return result
    here = {
        BASE: lambda: needed(1, batch) + _process_bytes(case.device),
        EAGER: lambda: needed(0, batch, graphs=0),
        SHARED: lambda: needed(0, 2 * batch, case.rank),
        SHARED_REFERENCE: lambda: needed(0, 3 * batch, case.rank),
        IN_TURN: lambda: needed(1, 2 * batch, graphs=2 * MAX_GRAPHS),
    }
    return {case.device: here[name]()}


@dataclass(frozen=True)
class Fit:
    """Which contenders a machine has memory for, and what is to be said of the others."""

    names: tuple[str, ...]
    refusals: tuple[str, ...]


def fit(case: Case, free: Mapping[str, int]) -> Fit:
    """Choose, in order, the contenders that are in memory together.

    Args:
        case: whose contenders.
        free: bytes, by device.
    """
    left, names, refusals = dict(free), list[str](), list[str]()
    for name in CONTENDERS:
        needed = memory_needed(name, case)
        short = [device for device, count in needed.items() if count > left[device]]
        if short or (names[:1] != [BASE] and name != BASE):
            device = short[0] if short else case.device
            refusals.append(
                f"{name}, B = {case.batch_size}: skipped, needs {needed[device] / GIB:.2f} GiB of"
                f" {device}, has {left[device] / GIB:.2f}"
                + ("" if short else "; nothing is compared without the base")
            )
            continue
        names.append(name)
        for device, count in needed.items():
            left[device] -= count
    return Fit(tuple(names), tuple(refusals))


def copy_bandwidth(device: str, num_bytes: int) -> float:
    """Measure what copying within a device reads and writes: bytes a second, the median.

    Args:
        device: where.
        num_bytes: of each of the two buffers; far more than a cache holds.
    """
    place = torch.device(device)
    # Filled, as a host keeps untouched zeros in one page, which it reads from its cache.
    source = torch.full((num_bytes,), 1, dtype=torch.uint8, device=place)
    target = source.clone()

    def copy() -> None:
        for _ in range(_COPIES_A_TIMING):
            target.copy_(source)

    timed(copy, place)
    seconds = statistics.median(timed(copy, place) for _ in range(_TIMINGS))
    return _COPIES_A_TIMING * 2 * num_bytes / seconds


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds until a device has done what `work` queues on it."""
    wait_for_stream(device)
    start = time.perf_counter()
    work()
    wait_for_stream(device)
    return time.perf_counter() - start


def free_bytes(device: str) -> int:
    """Return the bytes of a device that nobody uses."""
    place = torch.device(device)
    if place.type == "cuda":
        return int(torch.cuda.mem_get_info(place)[0])
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def device_name(device: str) -> str:
    """Return a device in words."""
    is_cuda = torch.device(device).type == "cuda"
    return f"{device} ({torch.cuda.get_device_name(device)})" if is_cuda else device


def _process_bytes(device: str) -> int:
    return PROCESS_BYTES if torch.device(device).type == "cuda" else 0
