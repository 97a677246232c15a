"""Memory: the KV cache against what the configuration says, and RSS over many requests."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import Ask
from benchmarks.make_models import BASE, SIZES, Size, pair_dir
from benchmarks.options import Options, Scale
from benchmarks.prompts import make_prompts, pair_tokenizer
from benchmarks.report import Report, ratio_bar
from benchmarks.rounds import Cell, Result, say
from benchmarks.service_loop import ServiceLoop
from benchmarks.suites.models import service_plan
from svc_common.lm.lean import LeanForward
from svc_common.lm.loading import load_model

MIB = 1 << 20
NUM_SLOTS, CONTEXT = 32, 1024
CONCURRENCY = 32
PROMPT, NUM_TOKENS = 12, 2
STRATEGIES = ("base", "pad-released", "pad")


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    sizes: tuple[str, ...]
    num_requests: int
    num_readings: int


PLANS = {
    Scale.TINY: Plan(("tiny",), 60, 3),
    Scale.QUICK: Plan(("tiny", "30m"), 1_000, 5),
    Scale.DEFAULT: Plan(("tiny", "30m", "135m"), 10_000, 10),
    Scale.FULL: Plan(("tiny", "30m", "135m"), 50_000, 20),
}


def kv_bytes(size: Size, num_slots: int, context_length: int, num_bytes: int = 4) -> int:
    """Return the bytes of all keys and values, computed from the shape of the model."""
    head_dim = size.hidden // size.num_heads
    return (
        2 * size.num_layers * num_slots * size.num_kv_heads * context_length * head_dim * num_bytes
    )


def run(options: Options) -> Report:
    """Read off the caches' sizes, then send many short requests."""
    plan = PLANS[options.scale]
    report = Report("memory")
    for size in plan.sizes:
        _measure_cache(size, options, report)
    _measure_requests(plan, options, report)
    report.notes = [
        f"KV cache of {NUM_SLOTS} slots of {CONTEXT} tokens, float32",
        f"RSS over {plan.num_requests} requests of {PROMPT} + {NUM_TOKENS} tokens,"
        f" {CONCURRENCY} at once, a third each of {', '.join(STRATEGIES)}; the column prompt"
        " counts the requests that are done",
    ]
    return report


def _measure_cache(size: str, options: Options, report: Report) -> None:
    loaded = load_model(
        pair_dir(f"{size}-lora", options.cache) / BASE,
        dtype="float32",
        device="cpu",
        context_length=CONTEXT,
        setting="pair",
    )
    lean = loaded.network("lean").lean
    assert lean is not None, "the models here are of a kind the lean forward knows"
    forward = LeanForward(lean)
    forward.allocate(NUM_SLOTS, CONTEXT)
    cell = Cell(size, NUM_SLOTS, CONTEXT)
    computed = kv_bytes(SIZES[size], NUM_SLOTS, CONTEXT)
    for name, value in (
        ("KV cache, computed", computed),
        ("KV cache, allocated", forward.num_cache_bytes),
    ):
        report.results.append(Result(cell, name, [{"MiB": value / MIB}]))
    own, other = report.results[-1], report.results[-2]
    report.bars += ratio_bar(f"KV cache, allocated / computed ({size})", 1.0, own, other, "MiB")


def _measure_requests(plan: Plan, options: Options, report: Report) -> None:
    pair = pair_dir("tiny-lora", options.cache)
    prompts = make_prompts(pair_tokenizer(pair), [PROMPT] * CONCURRENCY)
    found: dict[str, list[Result]] = {"generator": [], "reward-0": []}
    with ServiceLoop({"tiny": service_plan(pair, CONCURRENCY, 256)}) as services:
        pids = services.stacks["tiny"].pids
        num_done = 0
        for reading in range(1, plan.num_readings + 1):
            while num_done < plan.num_requests * reading // plan.num_readings:
                strategy = STRATEGIES[num_done // CONCURRENCY % len(STRATEGIES)]
                services.whole("tiny", [Ask(prompt, NUM_TOKENS, strategy) for prompt in prompts])
                num_done += CONCURRENCY
            for name, results in found.items():
                cell = Cell("tiny", CONCURRENCY, num_done)
                results.append(
                    Result(cell, f"RSS of {name}", [{"MiB": rss_bytes(pids[name]) / MIB}])
                )
            say(f"memory: {num_done} of {plan.num_requests} requests")
    for name, results in found.items():
        report.results += results
        start = results[len(results) // 5]  # by then every buffer was used once
        text = f"RSS of {name}, after {results[-1].cell.prompt} over {start.cell.prompt} requests"
        report.bars += ratio_bar(text, 1.02, results[-1], start, "MiB")


def rss_bytes(pid: int) -> int:
    """Return the memory a process has in RAM."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"pid: must be a running process, got {pid}")
