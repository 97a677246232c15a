"""What the price of PAD should not depend on: the prompt's length, K, and how many users there are.

Measured on the 30 M pair with theta as an adapter of the base.
"""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.load import Ask
from benchmarks.make_models import pair_dir
from benchmarks.options import Options, Scale
from benchmarks.prompts import make_prompts, pair_tokenizer
from benchmarks.report import Bar, Report, ratio_bar
from benchmarks.rounds import Cell, Result, Sample, interleave, ratios
from benchmarks.service_loop import ServiceLoop
from benchmarks.suites.models import service_plan

STACK = "lora"
WISHES = (
    "Be brief.",
    "Be friendly and chat with me a little.",
    "I love exclamation marks!",
    "Be formal and polite.",
    "Talk to me like a friend.",
    "Use simple words.",
    "Tell me every detail.",
    "Ask me back.",
)
STRATEGIES = ("pad-released", "pad")
FEW, MANY = 5, 40  # candidates


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    size: str
    prompts: tuple[int, int]
    num_steps: int
    num_rounds: int


PLANS = {
    Scale.TINY: Plan("tiny", (16, 32), 4, 1),
    Scale.QUICK: Plan("30m", (64, 256), 6, 1),
    Scale.DEFAULT: Plan("30m", (64, 256), 32, 5),
    Scale.FULL: Plan("30m", (64, 256), 64, 9),
}


def run(options: Options) -> Report:
    """Measure the three kinds of flatness on one stack."""
    plan = PLANS[options.scale]
    num_rounds = options.num_rounds or plan.num_rounds
    pair = pair_dir(f"{plan.size}-{STACK}", options.cache)
    tokenizer = pair_tokenizer(pair)
    stack_plan = service_plan(pair, len(WISHES), max(plan.prompts) + 1024)
    report = Report("flat", ["theta is a rank-8 adapter of the base; all over gRPC"])
    with ServiceLoop({STACK: stack_plan}) as services:

        def steady(asks: list[Ask]) -> Callable[[], Sample]:
            return lambda: services.steady(STACK, asks, plan.num_steps).sample()

        short, long = plan.prompts
        texts = {n: make_prompts(tokenizer, [n] * len(WISHES)) for n in plan.prompts}
        lengths = {
            f"{strategy}, prompt {n}": steady([Ask(texts[n][0], 1024, strategy)])
            for strategy in ("base", *STRATEGIES)
            for n in plan.prompts
        }
        candidates = {
            f"{strategy}, K = {k}": steady([Ask(texts[short][0], 1024, strategy, top_k=k)])
            for strategy in STRATEGIES
            for k in (FEW, MANY)
        }
        users = {
            f"{strategy}, {len(wishes)} users": steady(
                [Ask(texts[short][i], 1024, strategy, wish) for i, wish in enumerate(wishes)]
            )
            for strategy in STRATEGIES
            for wishes in (WISHES, WISHES[:1])
        }
        cell = Cell(plan.size, 1, short)
        found = interleave(cell, {**lengths, **candidates, **users}, num_rounds)
    for result in found:
        if result.contender.endswith(f"prompt {long}"):
            result.cell = Cell(plan.size, 1, long)
        elif result.contender.endswith(f"{len(WISHES)} users"):
            result.cell = Cell(plan.size, len(WISHES), short)
    report.results = found
    by_name = {result.contender: result for result in found}
    for strategy in STRATEGIES:
        report.bars += _bars(by_name, strategy, short, long)
    return report


def _bars(found: dict[str, Result], strategy: str, short: int, long: int) -> list[Bar]:
    def price(prompt: int) -> list[float]:
        own, plain = found[f"{strategy}, prompt {prompt}"], found[f"base, prompt {prompt}"]
        return ratios(own.values("step_ms"), plain.values("step_ms"))

    name = f"{strategy} / plain, prompt {long} over prompt {short}"
    few, many = found[f"{strategy}, K = {FEW}"], found[f"{strategy}, K = {MANY}"]
    one, all_users = found[f"{strategy}, 1 users"], found[f"{strategy}, {len(WISHES)} users"]
    return [
        Bar(name, 1.15, tuple(ratios(price(long), price(short)))),
        *ratio_bar(f"{strategy}, time at K = {MANY} over K = {FEW}", 1.1, many, few),
        *ratio_bar(
            f"{strategy}, tokens/s of {len(WISHES)} users over one",
            3.0,
            all_users,
            one,
            "tokens_per_s",
            is_upper=False,
        ),
    ]
