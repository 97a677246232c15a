"""A thousand generators and replicas by arithmetic: who waits for whom, event by event.

What a machine of two cores cannot run can be computed, if each part takes as long as the paced
suite measured it: forwards a set time, and every replica that is asked some work of the asker.
"""

import heapq
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Costs:
    """Milliseconds of each part of a step.

    Attributes:
        base_ms: a forward of the base model.
        reward_ms: a forward of the reward model, whatever its rows.
        network_ms: one way.
        score_ms: a replica's work on a question.
        message_ms: a generator's work for each replica: commit, question and answer, a third each.
        step_ms: its other work between two forwards.
    """

    base_ms: float = 10.0
    reward_ms: float = 10.0
    network_ms: float = 0.2
    score_ms: float = 0.25
    message_ms: float = 0.3
    step_ms: float = 1.0


@dataclass
class _Replica:
    """Runs all commits that wait, by generator, in its next forward."""

    waiting: list[int] = field(default_factory=list)
    running: list[int] = field(default_factory=list)


@dataclass
class _Generator:
    """`ran` has the times at which its commits of this step had run."""

    replicas: Sequence[int]
    started: float = 0.0
    ran: list[float] = field(default_factory=list)
    steps_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """Step times over all generators."""

    mean_ms: float
    p99_ms: float


def simulate(
    subsets: Sequence[Sequence[int]],
    costs: Costs,
    *,
    num_steps: int,
    num_skipped: int = 5,
    seed: int = 0,
) -> Outcome:
    """Return the step times of generators that keep sessions on a subset of the replicas each.

    Args:
        subsets: the replicas of each generator.
        costs: of all parts.
        num_steps: of each generator, behind the first `num_skipped`, which are not counted.
        seed: of the times at which generators begin.
    """
    generators = [_Generator(subset) for subset in subsets]
    replicas = [_Replica() for _ in range(1 + max(map(max, subsets)))]
    begin = random.Random(seed)
    # (time, kind, number, generator of a commit); what happens at one time is independent.
    events = [(begin.uniform(0, costs.base_ms), "step", i, 0) for i in range(len(generators))]
    heapq.heapify(events)
    num_running = len(generators)
    while num_running:
        now, kind, number, owner = heapq.heappop(events)
        if kind == "step":
            its = generators[number]
            its.started, its.ran = now, []
            for i, place in enumerate(its.replicas):
                arrival = now + (i + 1) * costs.message_ms / 3 + costs.network_ms
                heapq.heappush(events, (arrival, "commit", place, number))
            continue
        replica = replicas[number]
        if kind == "commit":
            replica.waiting.append(owner)
            if replica.running:
                continue
        else:  # a forward is over
            for one in replica.running:
                its = generators[one]
                its.ran.append(now)
                if len(its.ran) == len(its.replicas):
                    end = _end_of_step(its, costs)
                    its.steps_ms.append(end - its.started)
                    num_running -= len(its.steps_ms) == num_skipped + num_steps
                    heapq.heappush(events, (end, "step", one, 0))
        replica.running, replica.waiting = replica.waiting, []
        if replica.running:
            heapq.heappush(events, (now + costs.reward_ms, "over", number, 0))
    times = [ms for its in generators for ms in its.steps_ms[num_skipped:][:num_steps]]
    return Outcome(statistics.fmean(times), statistics.quantiles(times, n=100)[-1])


def _end_of_step(its: _Generator, costs: Costs) -> float:
    """Return when all rewards have come and the next tokens are chosen."""
    share = len(its.replicas) * costs.message_ms / 3  # of questions, and again of answers
    asked = its.started + costs.base_ms + share + costs.network_ms
    scored = max(asked, max(its.ran)) + costs.score_ms
    return scored + costs.network_ms + share + costs.step_ms
