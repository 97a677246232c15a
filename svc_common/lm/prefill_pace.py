"""How many prompt tokens a step may run, so that reading prompts delays running answers little."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from svc_common.lm.linear import filled_down

MIN_TOKENS = 16  # of a step, however slow the model: a prompt must come to its end
_NEWEST = 0.3  # weight of the last step in the estimate
_ROWS_AGE = 32  # steps with prompts, after which rows are measured anew
_MOST_OF_ROWS = 0.9  # of a forward's seconds, that are its rows'


@dataclass
class _RowsTime:
    """What the last forward of rows alone took, and how many steps with prompts came since."""

    num_rows: int = 0  # nothing is known
    seconds: float = 0.0
    num_steps: int = 0

    def is_near(self, num_rows: int) -> bool:
        """Whether so many rows take about as long: from half to twice as many."""
        return self.num_rows <= 2 * num_rows and num_rows <= 2 * self.num_rows

    def least_s(self, num_rows: int) -> float:
        """Return the least that a forward of so many rows takes."""
        return self.seconds * min(1.0, num_rows / max(1, self.num_rows))


class PrefillPace:
    """Turns seconds into tokens, by what the last steps took.

    Args:
        max_tokens: of a step that delays nobody; the most of any.
        max_s: seconds that prompts may add to a step that others wait for.
        clock: seconds.
    """

    def __init__(
        self, max_tokens: int, max_s: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.max_tokens = max_tokens
        self._max_s = max_s
        self._clock = clock
        self._token_s: float | None = None
        self._num_run, self._seconds = 0, 0.0  # of the step under way
        self._rows = _RowsTime()
        self.left = max_tokens  # tokens that the step may still run

    def begin_step(self, *, delays_others: bool) -> None:
        """Set `left` for a new step."""
        self._learn()
        self._rows.num_steps += 1
        self.left = self._bounded() if delays_others else self.max_tokens

    def fit_beside(self, num_rows: int) -> None:
        """Let prompts and one token of `num_rows` be as many as a forward runs without filling up.

        Else up to an eighth of what runs would be for nothing. At least half of `left` stays.
        """
        fitting = filled_down(self.left + num_rows) - num_rows
        if 2 * fitting >= self.left:
            self.left = fitting

    def spend(self, num_tokens: int) -> None:
        """Take tokens, or what takes as long, from what is left."""
        self.left -= num_tokens

    @contextmanager
    def measure(self, num_tokens: int, num_rows: int = 0) -> Generator[None]:
        """Learn from a forward of `num_tokens` and, beside them, of one token of `num_rows`."""
        started = self._clock()
        yield
        seconds = self._clock() - started
        rows_s = self._rows.least_s(num_rows)
        if rows_s > _MOST_OF_ROWS * seconds:  # they took longer, or some other thing did
            self._rows = _RowsTime()
            rows_s = _MOST_OF_ROWS * seconds
        self._seconds += seconds - rows_s
        self._num_run += num_tokens

    @contextmanager
    def measure_rows(self, num_rows: int) -> Generator[None]:
        """Learn what one token of `num_rows` takes where no prompt is read."""
        started = self._clock()
        yield
        self._rows = _RowsTime(num_rows, self._clock() - started)

    def can_tell_apart(self, num_rows: int) -> bool:
        """Whether, of a forward beside `num_rows`, it is known what the prompts added."""
        return self._rows.num_steps < _ROWS_AGE and self._rows.is_near(num_rows)

    def _learn(self) -> None:
        if self._num_run:
            # A forward of few tokens takes as long as one of MIN_TOKENS: it reads all weights.
            token_s = self._seconds / max(self._num_run, MIN_TOKENS)
            if self._token_s is None:
                self._token_s = token_s
            self._token_s += _NEWEST * (token_s - self._token_s)
        self._num_run, self._seconds = 0, 0.0

    def _bounded(self) -> int:
        """Return how many tokens fit, in multiples of MIN_TOKENS, so that shapes repeat."""
        if self._token_s is None:
            return min(self.max_tokens, MIN_TOKENS)
        fitting = self._max_s / max(self._token_s, 1e-9)
        rounded = MIN_TOKENS * max(1, int(min(fitting, self.max_tokens) // MIN_TOKENS))
        return self.max_tokens if fitting >= self.max_tokens else min(self.max_tokens, rounded)
