"""How large a run is: tiny for tests, quick for a look, default for figures."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from benchmarks.make_models import CACHE


class Scale(Enum):
    """How much is measured."""

    TINY = "tiny"  # tiny models, one round: whether it runs
    QUICK = "quick"  # under a minute a suite
    DEFAULT = "default"  # two to twelve minutes a suite
    FULL = "full"  # every model, batch size and prompt


@dataclass(frozen=True)
class Options:
    """What all suites are given."""

    scale: Scale = Scale.DEFAULT
    cache: Path = field(default=CACHE)
    num_rounds: int = 0  # 0: as the scale says
