"""Paced model: more reward replicas, more generators, and very many requests at once."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from benchmarks.load import Ask, mixed_rate
from benchmarks.options import Options, Scale
from benchmarks.paced.forward import Pace
from benchmarks.prompts import make_prompts, pair_tokenizer
from benchmarks.report import Report, ratio_bar
from benchmarks.rounds import Cell, Result, Sample, quantile, say
from benchmarks.service_loop import ServiceLoop
from benchmarks.stacks import StackPlan, cores, stack_options
from benchmarks.suites.paced import PROMPT, paced_stack
from pad_client.embedded import EmbeddedStack
from pad_client.embedded.ports import HOST, choose_ports
from pad_client.embedded.probes import is_serving, reaches_replicas

ROWS_A_REPLICA = 2
START_S = 120.0


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    replicas: tuple[int, ...]
    row_s: float  # that a saturated replica takes for a row
    generators: tuple[int, ...]
    num_requests: int
    num_slots: int
    num_steps: int


PLANS = {
    Scale.TINY: Plan((1, 2), 0.005, (1, 2), 20, 4, 4),
    Scale.QUICK: Plan((1, 4), 0.05, (1, 2), 200, 64, 20),
    Scale.DEFAULT: Plan((1, 4, 16), 0.05, (1, 2, 4), 2000, 256, 60),
    Scale.FULL: Plan((1, 2, 4, 8, 16), 0.05, (1, 2, 3, 4), 2000, 256, 200),
}


def run(options: Options) -> Report:
    """Measure the three ways to grow."""
    plan = PLANS[options.scale]
    report = Report("scaling")
    for num_replicas in plan.replicas:
        _measure_replicas(plan, options, num_replicas, report)
    _measure_generators(plan, options, report)
    _measure_crowd(plan, options, report)
    first, last = plan.replicas[0], plan.replicas[-1]
    own, one = _replicas_result(report, last), _replicas_result(report, first)
    report.bars += ratio_bar(
        f"rows/s of {last} reward replicas over {first}",
        14.0 * last / 16,
        own,
        one,
        "tokens_per_s",
        is_upper=False,
    )
    report.notes = [
        f"replicas: a saturated replica takes {1e3 * plan.row_s:g} ms a row,"
        f" {ROWS_A_REPLICA} answers each; processes share {os.cpu_count()} cores",
        "generators: 16 answers each on two replicas, 10 ms forwards",
        f"crowd: {plan.num_requests} requests of 8 tokens at once, {plan.num_slots} slots,"
        " 5 ms forwards",
    ]
    return report


def _replicas_result(report: Report, num_replicas: int) -> Result | None:
    name = f"{num_replicas} replicas"
    return next((result for result in report.results if result.contender == name), None)


def _measure_replicas(plan: Plan, options: Options, num_replicas: int, report: Report) -> None:
    batch = ROWS_A_REPLICA * num_replicas
    base = paced_stack(options, batch, Pace(0.001), Pace(0.0, plan.row_s))
    # Rows are as many as answers, so that each replica has its share: what is measured is whether
    # the services keep all of them busy, not how evenly chance spreads a few answers.
    reward = {**base.reward, "num_slots": ROWS_A_REPLICA}
    stack = replace(base, num_replicas=num_replicas, reward=reward, is_pinned=False)
    prompts = make_prompts(pair_tokenizer(stack.pair), [PROMPT] * batch)
    say(f"scaling: starting {num_replicas} reward replicas")
    with ServiceLoop({"paced": stack}) as services:
        result = Result(Cell("paced", batch, PROMPT), f"{num_replicas} replicas")
        for _ in range(options.num_rounds or 3):
            asks = [Ask(prompt, 4000, "pad-released") for prompt in prompts]
            result.samples.append(
                services.steady("paced", asks, max(4, plan.num_steps // 3)).sample()
            )
    report.results.append(result)


def _measure_generators(plan: Plan, options: Options, report: Report) -> None:
    pace = Pace(0.01)
    batch = 16
    most = max(plan.generators)
    base = paced_stack(options, batch, pace, pace)
    reward = {**base.reward, "num_slots": 2 * batch * most}
    stack = replace(base, num_replicas=2, reward=reward)
    with ServiceLoop({"paced": stack}) as services, ExitStack() as more:
        embedded = services.stacks["paced"]
        addresses = [embedded.address]
        for number in plan.generators:
            while len(addresses) < number:
                addresses.append(more.enter_context(_further_generator(stack, embedded)))
            services.connect("all", addresses)
            count = batch * number
            prompts = make_prompts(pair_tokenizer(stack.pair), [PROMPT] * count)
            result = Result(Cell("paced 10 ms", count, PROMPT), f"{number} generators")
            for _ in range(options.num_rounds or 3):
                asks = [Ask(prompt, 4000, "pad-released") for prompt in prompts]
                result.samples.append(services.steady("all", asks, plan.num_steps).sample())
            report.results.append(result)


def _measure_crowd(plan: Plan, options: Options, report: Report) -> None:
    pace = Pace(0.005)
    stack = paced_stack(options, plan.num_slots, pace, pace)
    prompts = make_prompts(pair_tokenizer(stack.pair), [PROMPT] * plan.num_requests)
    with ServiceLoop({"paced": stack}) as services:
        for name in ("base", "pad-released"):
            say(f"scaling: {plan.num_requests} requests at once, {name}")
            answers = services.whole("paced", [Ask(prompt, 8, name) for prompt in prompts])
            firsts = [1e3 * answer.first_token_s for answer in answers]
            sample: Sample = {
                "tokens_per_s": mixed_rate(answers),
                "num_complete": float(sum(len(a.token_times) == 8 for a in answers)),
                "first_token_p50_ms": quantile(firsts, 0.5),
                "first_token_p99_ms": quantile(firsts, 0.99),
            }
            cell = Cell("paced 5 ms", plan.num_requests, PROMPT)
            report.results.append(Result(cell, f"crowd, {name}", [sample]))


@contextmanager
def _further_generator(plan: StackPlan, stack: EmbeddedStack) -> Iterator[str]:
    """Start one more generator on the replicas and the store of a stack; give its address."""
    port, metrics_port = choose_ports([None, None], ())
    address = f"{HOST}:{port}"
    rewards = [place for name, place in stack.addresses.items() if name.startswith("reward")]
    environment: Mapping[str, str] = {
        **os.environ,
        **stack_options(plan).generator_environment,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "no_grpc_proxy": HOST,
        "GENERATOR_LISTEN": address,
        "GENERATOR_METRICS_PORT": str(metrics_port),
        "GENERATOR_MODEL_DIR": str(plan.pair / "demo-base"),
        "GENERATOR_REWARD_TARGETS": ",".join(rewards),
        "GENERATOR_REDIS_URL": stack.addresses["redis"],
    }
    process = subprocess.Popen([sys.executable, "-m", plan.generator_module], env=environment)
    try:
        os.sched_setaffinity(process.pid, {cores()[0]})
        deadline = time.monotonic() + START_S
        while not (is_serving(address) and reaches_replicas(address, len(rewards))):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"generator: not ready, exit code {process.poll()}")
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()
