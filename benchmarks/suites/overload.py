"""Four times more than can be written, and a tenant that floods: who still gets what.

Paced model: forwards take their time without the CPU, so that what is measured is the service.
"""

import asyncio
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.load import Ask
from benchmarks.open_load import Call, OpenLoad, refused, written
from benchmarks.options import Options, Scale
from benchmarks.paced.forward import Pace
from benchmarks.prompts import make_prompts, pair_tokenizer
from benchmarks.report import Report, ratio_bar, value_bar
from benchmarks.rounds import Cell, Result, Sample, quantile, say
from benchmarks.service_loop import ServiceLoop
from benchmarks.stacks import StackPlan
from benchmarks.suites.paced import paced_stack

PROMPT = 32
STRATEGY = "pad-released"
STACK = "overload"
OVERLOAD = 4.0  # times what can be written
CALM = 0.25


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    num_slots: int
    max_waiting: int
    num_tokens: int  # the mean, of answers of 1/4 to 7/4 of it
    seconds: float
    num_callers: int  # who come at once, and who come one after the other and again when told to
    num_rounds: int
    pace_s: float = 0.01


PLANS = {
    Scale.TINY: Plan(2, 2, 8, 1.0, 20, 1),
    Scale.QUICK: Plan(16, 32, 64, 8.0, 500, 1),
    Scale.DEFAULT: Plan(16, 32, 64, 60.0, 2000, 3),
    Scale.FULL: Plan(64, 128, 64, 60.0, 2000, 5),
}


def overload_stack(options: Options, plan: Plan) -> StackPlan:
    """Return the plan of a generator with a short queue that believes who calls."""
    pace = Pace(plan.pace_s)
    stack = paced_stack(options, plan.num_slots, pace, pace)
    return replace(
        stack,
        generator_module="benchmarks.paced.tenants",
        # A prompt takes a forward of its own: not more than one in a step while answers run.
        generator={
            **stack.generator,
            "max_waiting": plan.max_waiting,
            "max_prefill_s": plan.pace_s,
        },
        reward={**stack.reward, "max_prefill_s": plan.pace_s},
    )


def make_asks(prompt: str, num_tokens: int, seed: int) -> Iterator[Ask]:
    """Yield requests without end, for answers whose lengths differ as those of users do."""
    lengths = random.Random(seed)
    while True:
        share = lengths.uniform(0.25, 1.75)
        yield Ask(prompt, max(2, round(share * num_tokens)), STRATEGY)


def run(options: Options) -> Report:
    """Measure calm, overload, a burst, and one tenant beside another's flood."""
    plan = PLANS[options.scale]
    stack = overload_stack(options, plan)
    [prompt] = make_prompts(pair_tokenizer(stack.pair), [PROMPT])
    cell = Cell(f"paced {1e3 * plan.pace_s:g} ms", plan.num_slots, PROMPT)
    names = ("calm", "overload", "callers", "at once", "B alone", "B beside A's flood")
    results = {name: Result(cell, name) for name in names}
    with ServiceLoop({STACK: stack}) as services:
        trial = _Trial(services, plan, prompt)
        trial.warm_up()
        for number in range(options.num_rounds or plan.num_rounds):
            for name, sample in trial.round(number).items():
                results[name].samples.append(sample)
            say(f"{cell}: round {number + 1}")
        trial.close()
    report = Report("overload", _notes(plan), list(results.values()))
    _add_bars(report, results)
    return report


def _notes(plan: Plan) -> list[str]:
    return [
        f"answers of {plan.num_tokens} tokens on average, {STRATEGY}; {plan.num_slots} slots, room"
        f" for {plan.max_waiting} to wait; calls arrive at random (Poisson), {plan.seconds:g} s a"
        " part",
        f"calm: {CALM:g} times what can be written, overload: {OVERLOAD:g} times; callers:"
        f" {plan.num_callers} come within the first half and again when they are told to; at once:"
        f" {plan.num_callers} calls in the same moment, which the client needs a while to send",
        "B asks for one answer after the other, alone and while tenant A arrives with"
        f" {OVERLOAD:g} times what can be written, without limits of its own",
    ]


class _Trial:
    """The parts of a round, against one stack."""

    def __init__(self, services: ServiceLoop, plan: Plan, prompt: str) -> None:
        self._services = services
        self._plan = plan
        self._prompt = prompt
        self._ask = Ask(prompt, plan.num_tokens, STRATEGY)
        self._capacity = 0.0  # answers a second

        async def connect() -> OpenLoad:
            return OpenLoad(services.stacks[STACK].address)

        self._load = services.run(connect())

    def close(self) -> None:
        self._services.run(self._load.close())

    def warm_up(self) -> None:
        """Fill all slots twice and take the rate at which that went as what can be written."""
        num_slots = self._plan.num_slots
        for _ in range(2):
            calls = self._services.run(
                self._load.burst(itertools.repeat(self._ask), "A", num_slots)
            )
            last_s = max(call.ended_at for call in calls) - min(call.asked_at for call in calls)
            self._capacity = num_slots / last_s

    def round(self, number: int) -> dict[str, Sample]:
        """Measure every part once."""
        seconds, most = self._plan.seconds, OVERLOAD * self._capacity
        run, load, ask = self._services.run, self._load, self._ask
        asks = make_asks(self._prompt, self._plan.num_tokens, number)
        calm = run(load.arrive(asks, "A", CALM * self._capacity, seconds, seed=number))
        overload = run(load.arrive(asks, "A", most, seconds, seed=number))
        num_callers = self._plan.num_callers
        callers = run(load.crowd(asks, "A", num_callers, seconds, seed=number))
        burst = run(load.burst(itertools.repeat(ask), "A", num_callers))
        alone = run(load.in_turn(ask, "B", seconds))

        async def flooded() -> list[Call]:
            flood = asyncio.create_task(load.arrive(asks, "A", most, seconds, seed=number))
            beside = await load.in_turn(ask, "B", seconds)
            await flood
            return beside

        beside = run(flooded())
        return {
            "calm": _gaps(calm),
            "overload": _gaps(overload) | _refusals(overload),
            "callers": _gaps(callers) | _refusals(callers),
            "at once": _refusals(burst),
            "B alone": _durations(alone),
            "B beside A's flood": _durations(beside),
        }


def _gaps(calls: list[Call]) -> Sample:
    gaps = [1e3 * gap for call in written(calls) for gap in call.gaps_s]
    firsts = [1e3 * call.first_token_s for call in written(calls)]
    return {
        "num_written": len(written(calls)),
        "inter_token_p50_ms": quantile(gaps, 0.5),
        "inter_token_p99_ms": quantile(gaps, 0.99),
        "first_token_p99_ms": quantile(firsts, 0.99),
    }


def _refusals(calls: list[Call]) -> Sample:
    """Return how long refusals took; none at all would be a queue without end."""
    times = [1e3 * call.duration_s for call in refused(calls)] or [math.inf]
    delays = [call.retry_after_s for call in refused(calls)] or [0.0]
    return {
        "num_refused": len(refused(calls)),
        "refusal_p50_ms": quantile(times, 0.5),
        "refusal_p99_ms": quantile(times, 0.99),
        "refusal_max_ms": max(times),
        "retry_after_p50_s": quantile(delays, 0.5),
    }


def _durations(calls: list[Call]) -> Sample:
    times = [1e3 * call.duration_s for call in written(calls)] or [math.inf]
    firsts = [1e3 * call.first_token_s for call in written(calls)] or [math.inf]
    return {
        "num_written": len(written(calls)),
        "num_refused": len(refused(calls)),
        "answer_p50_ms": quantile(times, 0.5),
        "answer_p99_ms": quantile(times, 0.99),
        "first_token_p99_ms": quantile(firsts, 0.99),
    }


def _add_bars(report: Report, results: dict[str, Result]) -> None:
    overload, alone = results["overload"], results["B alone"]
    beside = results["B beside A's flood"]
    report.bars = [
        *ratio_bar(
            "inter-token p99 of accepted answers, overload / calm",
            1.5,
            overload,
            results["calm"],
            "inter_token_p99_ms",
        ),
        *value_bar("refusal p99 in overload, ms", 50.0, overload, "refusal_p99_ms"),
        *ratio_bar(
            "inter-token p99 of accepted answers, callers / calm",
            1.5,
            results["callers"],
            results["calm"],
            "inter_token_p99_ms",
        ),
        *value_bar("refusal p99 of callers, ms", 50.0, results["callers"], "refusal_p99_ms"),
        *value_bar("refusal p99 of calls at once, ms", 50.0, results["at once"], "refusal_p99_ms"),
        *ratio_bar(
            "answer p99 of B, beside A's flood / alone", 1.5, beside, alone, "answer_p99_ms"
        ),
        *value_bar("B's answers refused beside A's flood", 0.0, beside, "num_refused"),
    ]
