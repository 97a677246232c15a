"""Measures contenders in turn and reduces what they gave to medians, spreads and ratios."""

import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Sample = dict[str, float]
"""What one measurement gave, by the name of the quantity, for example `step_ms`."""


@dataclass(frozen=True)
class Cell:
    """What is the same for the contenders that are measured against each other."""

    model: str
    batch: int
    prompt: int  # tokens

    def __str__(self) -> str:
        return f"{self.model}, B = {self.batch}, prompt {self.prompt}"


@dataclass
class Result:
    """What one contender gave in one cell, one sample a round."""

    cell: Cell
    contender: str
    samples: list[Sample] = field(default_factory=list)

    def values(self, quantity: str) -> list[float]:
        return [sample[quantity] for sample in self.samples if quantity in sample]

    @property
    def quantities(self) -> list[str]:
        return list(dict.fromkeys(name for sample in self.samples for name in sample))


@dataclass(frozen=True)
class Spread:
    """A median with the least and the largest value."""

    median: float
    least: float
    most: float

    def text(self, digits: int) -> str:
        return f"{self.median:.{digits}f} ({self.least:.{digits}f} .. {self.most:.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Return median and extremes of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio within each round, which a drift of the machine hardly touches."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie (the nearest one)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def trapezoid_mean(places: Sequence[float], values: Sequence[float]) -> float:
    """Return the mean over the interval of a function known at a few ascending places."""
    if len(places) == 1:
        return values[0]
    area = sum(
        (places[i + 1] - places[i]) * (values[i] + values[i + 1]) / 2
        for i in range(len(places) - 1)
    )
    return area / (places[-1] - places[0])


def interleave(
    cell: Cell,
    contenders: Mapping[str, Callable[[], Sample]],
    num_rounds: int,
    *,
    num_warm_up: int = 1,
    seed: int = 0,
) -> list[Result]:
    """Measure every contender once a round, in a changing order; warm-up is not counted."""
    results = {name: Result(cell, name) for name in contenders}
    order = list(contenders)
    shuffle = random.Random(seed)
    for number in range(num_warm_up + num_rounds):
        shuffle.shuffle(order)
        for name in order:
            sample = contenders[name]()
            if number >= num_warm_up:
                results[name].samples.append(sample)
        say(f"{cell}: round {number + 1} of {num_warm_up + num_rounds}")
    return list(results.values())


def say(text: str) -> None:
    """Tell on stderr how far a run is."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
