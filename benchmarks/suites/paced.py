"""Paced model: what serving costs beyond the forwards, at 1 to 256 answers at once."""

from dataclasses import dataclass

from benchmarks.load import Ask, Watch
from benchmarks.make_models import pair_dir
from benchmarks.options import Options, Scale
from benchmarks.paced.forward import Pace
from benchmarks.prompts import make_prompts, pair_tokenizer
from benchmarks.report import Report, ratio_bar, value_bar
from benchmarks.rounds import Cell, Result, Sample, interleave, quantile
from benchmarks.scrape import mean_ms_between, read_totals
from benchmarks.service_loop import ServiceLoop
from benchmarks.stacks import StackPlan

CONTENDERS = {"plain": "base", "pad-released": "pad-released", "pad": "pad"}
PHASES = ("generator_forward", "reward_wait", "select", "emit")
PROMPT = 32


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    batches: tuple[int, ...]
    paces_ms: tuple[float, ...]
    num_steps: int
    num_rounds: int


PLANS = {
    Scale.TINY: Plan((1, 2), (5.0,), 8, 1),
    Scale.QUICK: Plan((1, 64), (10.0,), 60, 1),
    Scale.DEFAULT: Plan((1, 4, 16, 64, 256), (10.0,), 100, 3),
    Scale.FULL: Plan((1, 4, 16, 64, 256), (5.0, 10.0, 20.0), 200, 5),
}


def paced_stack(options: Options, num_slots: int, pace: Pace, reward_pace: Pace) -> StackPlan:
    """Return the plan of one generator and one replica that run at a pace."""
    shared = {"context_length": 4096, "prefill_chunk": 4096}
    return StackPlan(
        pair_dir("paced-full", options.cache),
        generator_module="benchmarks.paced.generator",
        reward_module="benchmarks.paced.reward",
        generator={
            **shared,
            "num_slots": num_slots,
            "max_waiting": 4096,
            "max_tokens": 4096,
            "reward_step_timeout_s": 60,
            "reward_open_timeout_s": 120,
        },
        reward={
            **shared,
            "num_slots": 2 * num_slots + 2,
            "max_waiting_sessions": 4096,
        },
        generator_environment=pace.variables,
        reward_environment=reward_pace.variables,
    )


def run(options: Options) -> Report:
    """Measure every batch size at every pace."""
    plan = PLANS[options.scale]
    report = Report("paced")
    for pace_ms in plan.paces_ms:
        _measure(plan, options, pace_ms, report)
    report.notes = [
        "forwards wait without using the CPU and return scripted states (vocabulary 512)",
        "overhead: time between two tokens of an answer, as the client sees it, less the pace",
        "server ms: means of the generator's own metrics",
    ]
    return report


def _measure(plan: Plan, options: Options, pace_ms: float, report: Report) -> None:
    pace = Pace(pace_ms / 1e3)
    stack_plan = paced_stack(options, max(plan.batches), pace, pace)
    tokenizer = pair_tokenizer(stack_plan.pair)
    num_rounds = options.num_rounds or plan.num_rounds
    with ServiceLoop({"paced": stack_plan}) as services:
        for batch in plan.batches:
            cell = Cell(f"paced {pace_ms:g} ms", batch, PROMPT)
            prompts = make_prompts(tokenizer, [PROMPT] * batch)

            def measure(strategy: str, prompts: list[str] = prompts) -> Sample:
                address = services.stacks["paced"].metrics_addresses["generator"]
                before = read_totals(address)
                asks = [Ask(prompt, 4000, strategy) for prompt in prompts]
                watch = services.steady("paced", asks, plan.num_steps)
                return _sample(watch, pace_ms) | _phases(before, read_totals(address))

            contenders = {
                name: lambda strategy=strategy, measure=measure: measure(strategy)
                for name, strategy in CONTENDERS.items()
            }
            report.results += interleave(cell, contenders, num_rounds)
            _add_bars(report, cell)


def _sample(watch: Watch, pace_ms: float) -> Sample:
    start, end = watch.window
    gaps = [
        1e3 * (later - earlier) - pace_ms
        for answer in watch.answers
        for earlier, later in zip(answer.token_times, answer.token_times[1:], strict=False)
        if start <= earlier and later <= end
    ]
    sample = watch.sample()
    return {
        "step_ms": sample["step_ms"],
        "tokens_per_s": sample["tokens_per_s"],
        "overhead_p50_ms": quantile(gaps, 0.5),
        "overhead_p99_ms": quantile(gaps, 0.99),
    }


def _phases(
    before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]
) -> Sample:
    """Return the mean of each phase and of the time between tokens, as the generator saw them."""
    sample = {}
    for name in (*PHASES, "pad_inter_token_latency_seconds"):
        mean_ms = mean_ms_between(before, after, name)
        short = "inter_token" if name.startswith("pad") else name
        sample[f"server_{short}_ms"] = mean_ms if mean_ms is not None else 0.0
    return sample


def _add_bars(report: Report, cell: Cell) -> None:
    def found(name: str) -> Result | None:
        return report.find(name, cell.model, cell.batch, cell.prompt)

    if cell.batch <= 64:
        for name in ("pad-released", "pad"):
            report.bars += ratio_bar(
                f"{name} tokens/s / plain ({cell.model}, B = {cell.batch})",
                0.95,
                found(name),
                found("plain"),
                "tokens_per_s",
                is_upper=False,
            )
    if cell.batch == 64:
        for name in CONTENDERS:
            for share, limit in (("p50", 1.0), ("p99", 3.0)):
                text = f"{name} overhead {share}, ms ({cell.model}, B = 64)"
                report.bars += value_bar(text, limit, found(name), f"overhead_{share}_ms")
