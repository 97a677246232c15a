"""How many prompt tokens a step may run, so that reading prompts delays running answers little."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

MIN_TOKENS = 16  # of a step, however slow the model: a prompt must come to its end
_NEWEST = 0.3  # weight of the last step in the estimate


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
        self.left = max_tokens  # tokens that the step may still run

    def begin_step(self, *, delays_others: bool) -> None:
        """Set `left` for a new step."""
        self._learn()
        self.left = self._bounded() if delays_others else self.max_tokens

    def spend(self, num_tokens: int) -> None:
        """Take tokens, or what takes as long, from what is left."""
        self.left -= num_tokens

    @contextmanager
    def measure(self, num_tokens: int) -> Generator[None]:
        """Learn from a forward of `num_tokens`."""
        started = self._clock()
        yield
        self._seconds += self._clock() - started
        self._num_run += num_tokens

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
