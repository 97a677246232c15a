"""What a step costs over the tokens already generated, against the cost of attention alone."""

import time
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.load import Ask
from benchmarks.make_models import SIZES, Size, pair_dir
from benchmarks.options import Options, Scale
from benchmarks.prompts import make_prompts, pair_tokenizer
from benchmarks.report import Report, value_bar
from benchmarks.rounds import Cell, Result, spread
from benchmarks.service_loop import ServiceLoop
from benchmarks.suites.models import service_plan

STRATEGIES = ("base", "pad-released", "pad")
PROMPT = 32
ATTENTION = "attention alone"
NUM_TIMED = 30  # attentions timed at each length


@dataclass(frozen=True)
class Plan:
    """What is measured: medians over `bin_size` neighbouring steps."""

    size: str
    num_tokens: int
    bin_size: int
    num_rounds: int


PLANS = {
    Scale.TINY: Plan("tiny", 40, 10, 1),
    Scale.QUICK: Plan("8m", 600, 100, 1),
    Scale.DEFAULT: Plan("8m", 4000, 250, 1),
    Scale.FULL: Plan("8m", 4000, 250, 3),
}


def run(options: Options) -> Report:
    """Write one long answer with each strategy, and time attention at the same lengths."""
    plan = PLANS[options.scale]
    pair = pair_dir(f"{plan.size}-lora", options.cache)
    [prompt] = make_prompts(pair_tokenizer(pair), [PROMPT])
    context = plan.num_tokens + PROMPT + 320
    report = Report("long", [f"one answer of {plan.num_tokens} tokens; context {context}"])
    ends = range(plan.bin_size, plan.num_tokens + 1, plan.bin_size)
    found = {
        (name, end): Result(Cell(plan.size, 1, end), name)
        for end in ends
        for name in (*STRATEGIES, ATTENTION)
    }
    with ServiceLoop({"lora": service_plan(pair, 1, context)}) as services:
        for _ in range(options.num_rounds or plan.num_rounds):
            for strategy in STRATEGIES:
                [answer] = services.whole("lora", [Ask(prompt, plan.num_tokens, strategy)])
                for end, step_ms in _bins(answer.gaps_s, plan.bin_size).items():
                    found[strategy, end].samples.append({"step_ms": step_ms})
            for end in ends:
                sample = {"step_ms": 1e3 * attention_s(SIZES[plan.size], PROMPT + end)}
                found[ATTENTION, end].samples.append(sample)
    report.results = list(found.values())
    report.notes.append("the column prompt counts the tokens already generated")
    _add_bars(report, found, ends)
    return report


def _bins(gaps_s: list[float], bin_size: int) -> dict[int, float]:
    """Return the median time in ms of each bin of steps, by the tokens generated at its end."""
    num_bins = (len(gaps_s) + 1) // bin_size
    return {
        (i + 1) * bin_size: 1e3 * spread(gaps_s[i * bin_size : (i + 1) * bin_size]).median
        for i in range(num_bins)
    }


def attention_s(size: Size, length: int) -> float:
    """Return the median time of one step's attention in all layers, with rows of `length`."""
    head_dim = size.hidden // size.num_heads
    torch.set_num_threads(1)
    groups = size.num_heads // size.num_kv_heads
    queries = torch.randn(1, size.num_kv_heads, groups, head_dim)  # as the lean forward has them
    stored = torch.randn(size.num_layers, 1, 2 * size.num_kv_heads, length, head_dim)
    times = []
    for _ in range(NUM_TIMED):
        start = time.perf_counter()
        for layer in stored:
            keys, values = layer[:, : size.num_kv_heads], layer[:, size.num_kv_heads :]
            nn.functional.scaled_dot_product_attention(queries, keys, values)
        times.append(time.perf_counter() - start)
    return spread(times).median


def _add_bars(report: Report, found: dict[tuple[str, int], Result], ends: range) -> None:
    """Compare what a step has grown by with what attention has.

    `pad` attends in two rows and may double it; the bars are ours, set to show a leak.
    """
    first, last = ends[0], ends[-1]
    if first == last:
        return
    attention = _growth(found[ATTENTION, first], found[ATTENTION, last])
    for name in STRATEGIES:
        grown = _growth(found[name, first], found[name, last])
        extra = Result(Cell("", 1, last), name)
        extra.samples = [
            {"ms": own - factor * least}
            for own, least, factor in zip(grown, attention, [2.0] * len(grown), strict=True)
        ]
        start = spread(found[name, first].values("step_ms")).median
        text = f"{name}: growth from {first} to {last} tokens beyond twice attention's, ms"
        report.bars += value_bar(text, round(0.25 * start, 2), extra, "ms")


def _growth(first: Result, last: Result) -> list[float]:
    pairs = zip(first.values("step_ms"), last.values("step_ms"), strict=True)
    return [late - early for early, late in pairs]
