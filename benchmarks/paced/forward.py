"""A forward that waits as a GPU would be waited for, and returns what a script says."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from svc_common.lm.forward import Contents, Step
from svc_common.lm.loading import LoadedModel
from svc_common.lm.networks import Network
from svc_common.lm.runner import SlotRunner

NUM_STATES = 1021  # hidden states of the script; prime, so that tokens and positions mix
PREFIX = "BENCH_"


@dataclass(frozen=True)
class Pace:
    """How long a forward takes: a fixed time, and more for each row that gets one token.

    A time a row is that of a model whose capacity is used up; prompts are free of it.
    """

    step_s: float
    row_s: float = 0.0

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> "Pace":
        """Read `BENCH_PACE_STEP_S` and `BENCH_PACE_ROW_S`."""
        return Pace(
            float(environment[f"{PREFIX}PACE_STEP_S"]),
            float(environment.get(f"{PREFIX}PACE_ROW_S", "0")),
        )

    @property
    def variables(self) -> dict[str, str]:
        """The environment that `from_environment` reads."""
        return {
            f"{PREFIX}PACE_STEP_S": str(self.step_s),
            f"{PREFIX}PACE_ROW_S": str(self.row_s),
        }


def script(hidden_size: int, seed: int) -> Tensor:
    """Return the hidden states a scripted model gives: `[NUM_STATES, D]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_STATES, hidden_size, generator=generator)


def place_in_script(token_ids: Tensor, positions: Tensor) -> Tensor:
    """Return which state follows tokens at positions; both and the result of one shape."""
    return (token_ids * 31 + positions * 7) % NUM_STATES


class PacedForward:
    """Implements `Forward`: its output depends on each token and its position alone."""

    view_quantum = 1

    def __init__(self, states: Tensor, pace: Pace) -> None:
        self._states = states
        self._pace = pace

    @property
    def device(self) -> torch.device:
        return self._states.device

    def allocate(self, num_slots: int, context_length: int) -> None:
        """Keep nothing: no output depends on what came before."""

    def run(self, step: Step, input_ids: Tensor) -> Tensor:
        """Look the states up first, in the time of the forward: looking up is no service's work."""
        started = time.perf_counter()
        num_rows, num_new = input_ids.shape
        states = self._states[place_in_script(input_ids, step.positions)]  # [B, T, D]
        step_s = self._pace.step_s + self._pace.row_s * (num_rows if num_new == 1 else 0)
        time.sleep(max(0.0, started + step_s - time.perf_counter()))
        return states

    def move(self, source: int, target: int, length: int) -> None:
        """Nothing is kept that could be moved."""

    def read(self, row: int, length: int, start: int = 0) -> Contents:
        return (torch.zeros(length - start, 1),)  # one number a place: nothing else is kept

    def write(self, row: int, contents: Contents, length: int, start: int = 0) -> None:
        """Nothing is kept that could be put back."""


@dataclass(frozen=True)
class PacedNetwork(Network):
    """The script in place of a backbone."""

    pace: Pace = Pace(0.0)
    seed: int = 0

    def new_runner(self, num_slots: int) -> SlotRunner:
        states = script(self.backbone.config.hidden_size, self.seed)
        forward = PacedForward(states, self.pace)
        return SlotRunner(forward, num_slots=num_slots, context_length=self.context_length)


@dataclass(frozen=True)
class PacedModel(LoadedModel):
    """A loaded model whose output layer and tokenizer are real, and whose backbone is a script."""

    pace: Pace = Pace(0.0)
    seed: int = 0

    def network(self, kind: str, **_: object) -> Network:
        return PacedNetwork(
            self.model.base_model, self.context_length, pace=self.pace, seed=self.seed
        )
