"""Measures plain and guided decoding on a GPU: `python -m benchmarks.gpu --batch 1 8 16`.

Random models of Llama-3-8B's shape; every contender beside plain decoding and beside the time that
reading the weights takes at the bandwidth that a copy reaches. It prints a table and writes JSON.
"""

import argparse
import dataclasses
import gc
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu_contenders import BASE_SEED, Base, Case, Contender, InTurn, Shared
from benchmarks.gpu_plan import (
    BASE,
    CONTENDERS,
    EAGER,
    GIB,
    IN_TURN,
    OWN_PROCESS,
    SHARED,
    SHARED_REFERENCE,
    Fit,
    copy_bandwidth,
    device_name,
    fit,
    floor_ms,
    free_bytes,
    timed,
    weight_bytes,
)
from benchmarks.gpu_process import OwnProcess
from benchmarks.random_llama import RandomModel, Shape, random_model, with_adapter
from benchmarks.report import HERE, Report, show
from benchmarks.rounds import Cell, Result, Sample, interleave
from svc_common.lm.loading import DTYPES, check_device
from svc_common.settings import SettingsError

TINY_SHAPE = Shape(
    num_layers=2, hidden=64, num_heads=4, num_kv_heads=2, intermediate=128, vocabulary=512
)
# All contenders are in memory together; these sizes fit one GPU of 80 GB.
_FULL = {"batch": [1, 8, 16], "prompt": 512, "context": 768, "rounds": 9, "steps": 64}
_TINY = {"batch": [2], "prompt": 16, "context": 64, "rounds": 2, "steps": 4}
_COPY_BYTES, _TINY_COPY_BYTES = 2 * GIB, 32 << 20
_UNMEASURED_STEPS = 2  # of each timing; caches and clocks come back from the contender before
_THETA_SEED = 4


def main(words: list[str]) -> int:
    """Measure what is asked for, print it and keep it; return the exit status."""
    options = parse(words)
    report = Report("gpu")
    devices = list(dict.fromkeys([options.device, options.reward_device]))
    most = _TINY_COPY_BYTES if options.tiny else _COPY_BYTES
    speeds = {
        device: copy_bandwidth(device, min(most, _budget(device, options.max_gib) // 4))
        for device in devices
    }
    report.notes = _notes(options, speeds)
    command = " ".join(["python -m benchmarks.gpu", *words])
    for batch_size in options.batch:
        _clear()
        case = _case(options, batch_size)
        free = {device: _budget(device, options.max_gib) for device in devices}
        chosen = fit(case, free)
        report.notes += chosen.refusals
        if chosen.names:
            report.results += measure(case, chosen, options, speeds)
        report.save(command, options.out / "results")  # after each, for what may be cut off
    show(report)
    if report.results:
        return 0
    sys.stderr.write("gpu: nothing was measured, see the notes\n")
    return 1


def parse(words: list[str]) -> argparse.Namespace:
    """Return the options, checked; a wrong one ends the program and is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="of the base (default: %(default)s)")
    parser.add_argument("--reward-device", help="of the reward's own process (default: --device)")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    parser.add_argument("--batch", type=int, nargs="+", help="sequences that decode together")
    parser.add_argument("--prompt", type=int, help="tokens that stand before the first step")
    parser.add_argument("--context", type=int, help="most tokens of a sequence")
    parser.add_argument("--top-k", type=int, default=20, help="candidates a step")
    parser.add_argument("--rank", type=int, default=16, help="of the reward's LoRA")
    parser.add_argument("--rounds", type=int, help="timings of each contender, in turn")
    parser.add_argument("--steps", type=int, help="steps of a timing")
    parser.add_argument("--max-gib", type=float, help="memory of a device that may be used")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results/")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: whether it runs")
    options = parser.parse_args(words)
    for name, value in (_TINY if options.tiny else _FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.reward_device = options.reward_device or options.device
    options.shape = TINY_SHAPE if options.tiny else Shape()
    try:
        _check(options)
        options.device = _one_name(options.device)
        options.reward_device = _one_name(options.reward_device)
    except SettingsError as error:
        parser.error(str(error))
    return options


def _check(options: argparse.Namespace) -> None:
    """Refuse what cannot be run.

    Raises:
        SettingsError: names the option.
    """
    check_device("--device", options.device)
    check_device("--reward-device", options.reward_device)
    for name in ("prompt", "context", "top_k", "rank", "rounds", "steps"):
        if getattr(options, name) < 1:
            option = "--" + name.replace("_", "-")
            raise SettingsError(f"{option}: must be at least 1, got {getattr(options, name)}")
    if min(options.batch) < 1:
        raise SettingsError(f"--batch: must be at least 1, got {min(options.batch)}")
    if options.top_k > options.shape.vocabulary:
        rule = f"must be at most the vocabulary's {options.shape.vocabulary}"
        raise SettingsError(f"--top-k: {rule}, got {options.top_k}")
    needed = options.prompt + _UNMEASURED_STEPS + options.steps
    if options.context < needed:
        parts = f"--prompt + {_UNMEASURED_STEPS} + --steps = {needed}"
        raise SettingsError(f"--context: must be at least {parts}, got {options.context}")
    if options.max_gib is not None and not options.max_gib > 0:
        raise SettingsError(f"--max-gib: must be above 0, got {options.max_gib:g}")


def measure(
    case: Case, chosen: Fit, options: argparse.Namespace, speeds: dict[str, float]
) -> list[Result]:
    """Build the contenders of a batch size, time them in turn, compare and drop them."""
    cell = Cell("tiny" if options.tiny else "llama-3-8b", case.batch_size, case.prompt_length)
    with ExitStack() as stack:
        contenders = build(case, chosen.names, stack)
        samples: dict[str, Callable[[], Sample]] = {
            name: partial(_sample, contender, options.steps, torch.device(case.device))
            for name, contender in contenders.items()
        }
        results = interleave(cell, samples, options.rounds)
    compare(results, case, speeds)
    return results


def build(case: Case, names: Sequence[str], stack: ExitStack) -> dict[str, Contender]:
    """Make contenders, with one base for all; `stack` ends the process that one has."""
    device = torch.device(case.device)

    def model(seed: int) -> RandomModel:
        return random_model(case.shape, device, case.dtype, case.context_length, seed)

    base = model(BASE_SEED)

    def shared(*, has_reference: bool) -> Shared:
        adapted = with_adapter(base, case.shape, case.rank, seed=_THETA_SEED)
        return Shared(adapted, case, has_reference=has_reference)

    make: dict[str, Callable[[], Contender]] = {
        BASE: lambda: Base(base, case),
        EAGER: lambda: Base(base, case, has_graphs=False),
        SHARED: lambda: shared(has_reference=False),
        SHARED_REFERENCE: lambda: shared(has_reference=True),
        IN_TURN: lambda: InTurn(base, model(_THETA_SEED), case),
        OWN_PROCESS: lambda: stack.enter_context(OwnProcess(base, case)),
    }
    return {name: make[name]() for name in CONTENDERS if name in names}


def compare(results: Sequence[Result], case: Case, speeds: dict[str, float]) -> None:
    """Add to each sample its ratio to plain decoding, round by round, and to the floor."""
    plain = next(result for result in results if result.contender == BASE).values("step_ms")
    for result in results:
        read = weight_bytes(result.contender, case)
        floor = floor_ms(read, speeds)
        for sample, plain_ms in zip(result.samples, plain, strict=True):
            sample["to_plain"] = sample["step_ms"] / plain_ms
            sample["read_gb"] = sum(read.values()) / 1e9
            sample["floor_ms"] = floor
            sample["to_floor"] = sample["step_ms"] / floor


def _sample(contender: Contender, num_steps: int, device: torch.device) -> Sample:
    def steps() -> None:
        for _ in range(num_steps):
            contender.step()

    contender.rewind()
    for _ in range(_UNMEASURED_STEPS):
        contender.step()
    return {"step_ms": 1000 * timed(steps, device) / num_steps}


def _case(options: argparse.Namespace, batch_size: int) -> Case:
    return Case(
        shape=options.shape,
        device=options.device,
        reward_device=options.reward_device,
        dtype=DTYPES[options.dtype],
        batch_size=batch_size,
        prompt_length=options.prompt,
        context_length=options.context,
        top_k=options.top_k,
        rank=options.rank,
    )


def _one_name(device: str) -> str:
    """Return the name of a device with its number if it has one: memory is counted by name."""
    place = torch.device(device)
    return "cpu" if place.type == "cpu" else str(torch.empty(0, device=place).device)


def _budget(device: str, max_gib: float | None) -> int:
    free = free_bytes(device)
    return free if max_gib is None else min(free, int(max_gib * GIB))


def _notes(options: argparse.Namespace, speeds: dict[str, float]) -> list[str]:
    shape = dataclasses.asdict(options.shape)
    notes = [
        f"random model: {', '.join(f'{name} {value}' for name, value in shape.items())};"
        f" {options.dtype}, context {options.context}, K = {options.top_k}, rank {options.rank};"
        f" torch {torch.__version__}, {options.steps} steps a round",
    ]
    notes += [
        f"{device_name(device)}: a copy reads and writes {speed / 1e9:.0f} GB/s (the floor's rate)"
        for device, speed in speeds.items()
    ]
    if options.device == options.reward_device:
        notes.append("base and reward process share a device: their forwards take turns on it")
    return notes


def _clear() -> None:
    """Give back what the contenders of another batch size held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
