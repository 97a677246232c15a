"""Starts real services for a benchmark: pinned, one torch thread each, some with another entry."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pad_client.embedded import EmbeddedStack, StackOptions

SERVICE_ENVIRONMENT = {"LOG_LEVEL": "warning"}


@dataclass(frozen=True)
class StackPlan:
    """One generator with its reward replicas.

    Args:
        pair: folder with `demo-base` and `demo-persrm`.
        generator_module, reward_module: what `python -m` runs.
        generator, reward: settings without their prefix.
        generator_environment, reward_environment: further variables.
        is_pinned: generator on the first core, replicas on the last.
    """

    pair: Path
    num_replicas: int = 1
    generator_module: str = "generator_svc"
    reward_module: str = "reward_svc"
    generator: Mapping[str, object] = field(default_factory=dict)
    reward: Mapping[str, object] = field(default_factory=dict)
    generator_environment: Mapping[str, str] = field(default_factory=dict)
    reward_environment: Mapping[str, str] = field(default_factory=dict)
    is_pinned: bool = True


def cores() -> tuple[int, int]:
    """Return the generator's core and the reward service's; one and the same on a single core."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def stack_options(plan: StackPlan) -> StackOptions:
    """Return the embedded stack's options for a plan."""
    first, last = cores()
    cpus: dict[str, Sequence[int]] = {}
    if plan.is_pinned:
        cpus = {f"reward-{i}": [last] for i in range(plan.num_replicas)}
        cpus["generator"] = [first]
    return StackOptions(
        models_dir=plan.pair,
        num_reward_replicas=plan.num_replicas,
        generator_command=(sys.executable, "-m", plan.generator_module),
        reward_command=(sys.executable, "-m", plan.reward_module),
        generator_environment={
            **plan.generator_environment,
            **_environment("GENERATOR", plan.generator),
        },
        reward_environment={**plan.reward_environment, **_environment("REWARD", plan.reward)},
        cpus=cpus,
        start_timeout_s=400.0,
    )


def _environment(prefix: str, settings: Mapping[str, object]) -> dict[str, str]:
    values = {**SERVICE_ENVIRONMENT, **settings}
    return {f"{prefix}_{name.upper()}": str(value) for name, value in values.items()}


@contextmanager
def running(plans: Mapping[str, StackPlan]) -> Iterator[dict[str, EmbeddedStack]]:
    """Start all stacks at once; idle ones cost the measured one next to nothing."""
    with ExitStack() as stacks, ThreadPoolExecutor(len(plans)) as pool:
        made = {name: EmbeddedStack(stack_options(plan)) for name, plan in plans.items()}
        for stack in made.values():
            stacks.callback(stack.stop)
        list(pool.map(EmbeddedStack.start, made.values()))
        yield made
