"""How fast answers come and go: what waiting and starting will probably take, from measurements."""

from svc_common.errors import RETRY_AFTER_S

KEPT = 0.95  # share of the past in a running mean, at each new value


class DecayingRatio:
    """A sum over another, in which what was long ago counts less and less."""

    def __init__(self) -> None:
        self._above = 0.0
        self._below = 0.0

    @property
    def value(self) -> float | None:
        """The ratio, None while nothing is known."""
        return self._above / self._below if self._below else None

    def note(self, above: float, below: float) -> None:
        """Add a pair of measurements."""
        self._above = self._above * KEPT + above
        self._below = self._below * KEPT + below


class ServiceRate:
    """Running means of the engine's work.

    Tokens are claimed ones: a prompt's and the most that may be written. How much of that an
    answer takes is part of what is measured.
    """

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._slot_s = DecayingRatio()  # seconds in a slot a claimed token
        self._answer_s = DecayingRatio()  # seconds in a slot an answer
        self._prompt_s = DecayingRatio()  # seconds of reading a prompt token
        self._step_s = DecayingRatio()

    def note_answer(self, seconds: float, num_tokens: int) -> None:
        """An answer that claimed `num_tokens` left its slot after `seconds`."""
        self._slot_s.note(seconds, num_tokens)
        self._answer_s.note(seconds, 1)

    def note_prompt(self, seconds: float, num_tokens: int) -> None:
        """A prompt was read."""
        self._prompt_s.note(seconds, num_tokens)

    def note_step(self, seconds: float) -> None:
        """Running answers got a token each."""
        self._step_s.note(seconds, 1)

    @property
    def answer_s(self) -> float:
        """What an answer takes in its slot; a guess while nothing is known."""
        return self._answer_s.value or RETRY_AFTER_S

    def drain_s(self, num_tokens: int) -> float:
        """Return what all slots together need for requests of `num_tokens`; 0 if not known."""
        return num_tokens * (self._slot_s.value or 0.0) / self._num_slots

    def start_s(self, num_prompt_tokens: int) -> float:
        """Return what a prompt and the first token take; 0 if not known."""
        return num_prompt_tokens * (self._prompt_s.value or 0.0) + (self._step_s.value or 0.0)
