"""What the engine asks of a reward service, whatever stands behind it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from torch import Tensor

from generator_svc.decoding.candidates import Candidates
from generator_svc.decoding.strategies import Reference
from svc_common.lm.slots import Row
from svc_common.preference_prompt import Prompt
from svc_common.trace_context import TraceContext


@dataclass(frozen=True)
class EncodedPreference:
    """A wish, its weight, and the encodings of it that are at hand.

    They go by the version of the reward model that made each, which is of no use to another.
    """

    text: str
    weight: float
    encodings: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class RewardContext:
    """What rewards are about: answers to `prompt` (without preferences) under `preferences`.

    With `is_base_prompt` the base model reads that same prompt. If it `is_explained`, it is asked
    for what each preference alone gives, too.
    """

    prompt: Prompt
    preferences: tuple[EncodedPreference, ...]
    reference: Reference
    is_base_prompt: bool = False
    subject: bytes = b""  # whose answers: an opaque name, by which caches can be cleared
    is_explained: bool = False
    trace: TraceContext | None = None  # the request's, for whoever works on it elsewhere

    @property
    def total_weight(self) -> float:
        return sum(preference.weight for preference in self.preferences)


class SessionState(Enum):
    """Where a reward session stands."""

    OPENING = auto()  # a replica reads the prefix
    OPEN = auto()
    FAILED = auto()  # no replica could open it; `error` says why
    CLOSED = auto()


class BaseAnswer(Protocol):
    """An answer as the base model holds it."""

    prompt_ids: list[int]
    row: Row | None
    prompt_end: Tensor | None  # last hidden state of its prompt `[1, D]`, once that was read


@dataclass(eq=False)
class RewardSession:
    """One answer's place at the reward service; the scorer changes it, the engine reads it.

    `token_ids` is the engine's own list of the answer so far: wherever the session is opened
    again, it is opened with these. `base` is for a scorer that runs beside the base model.
    """

    context: RewardContext
    token_ids: list[int]
    on_change: Callable[[], None]
    base: BaseAnswer | None = None
    state: SessionState = SessionState.OPENING
    num_committed: int = 0  # answer tokens that its replica has
    error: Exception | None = None
    model_version: str = ""  # of the rewards it got last, else of the replica that opened it
    max_answer_tokens: int | None = None  # then the reward model's context is full
    is_scoring: bool = False  # its rewards were asked for and are late; `on_change` says when not


@dataclass(frozen=True)
class ScoreRows:
    """Candidates `[B, K]` of B open sessions, of which each row counts its first ones.

    `guesses`, where there are some, are tokens that the sessions may go on with meanwhile; a
    session that is sent one counts it as committed. Whoever guessed wrong sets `num_committed` back
    to the tokens that hold, and the next commit takes the session back.
    """

    sessions: list[RewardSession]
    candidates: Candidates
    counts: list[int]
    guesses: list[int | None] | None = None

    @property
    def token_ids(self) -> Tensor:
        """Ids of the candidates `[B, K]` int64."""
        return self.candidates.token_ids


@dataclass(frozen=True)
class ScoredRows:
    """Rewards `[B, K]` float32, 0 behind a row's candidates, and which rows have some.

    `by_preference` holds, by row, what each preference alone gives to the row's candidates, without
    its weight: `[P, K]`. Only rows of explained sessions have it, and none whose replica is of a
    version that cannot tell.
    """

    rewards: Tensor
    has_rewards: list[bool]
    by_preference: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class RewardTimes:
    """Seconds, as a replica says: of its last forward, and that the last question waited for it."""

    forward_s: float = 0.0
    queue_s: float = 0.0


class RewardScorer(Protocol):
    """A pool of reward replicas."""

    @property
    def times(self) -> RewardTimes:
        """Of the answer that came last, which a step with several replicas waited for."""

    @property
    def is_available(self) -> bool:
        """Whether a session could be opened now."""

    def open(self, session: RewardSession) -> None:
        """Begin to open (or open again) a session; `on_change` is called when its state changes."""

    def commit(self, sessions: list[RewardSession]) -> None:
        """Send the tokens that open sessions do not have yet; nothing is awaited."""

    def score(self, rows: ScoreRows) -> "asyncio.Future[ScoredRows]":
        """Ask for the rewards of each session's candidates; they come when it is awaited.

        The question is on its way when this returns, so that the caller can work meanwhile: hence a
        future, as a coroutine would not have begun. With Reference.BASE the base model's part is
        not subtracted. A row has none where its session was lost, and is no longer OPEN, or where
        its rewards are late: it then `is_scoring`, and may be asked for again once it is not.
        Nobody waits long for another's replica.
        """

    def close(self, session: RewardSession) -> None:
        """End a session, whatever its state."""


class RewardQueries(Protocol):
    """What is asked of a reward service beside the steps: whole answers and encodings."""

    @property
    def model_versions(self) -> frozenset[str]:
        """Versions of the models in reach whose encodings are worth keeping."""

    @property
    def vector_versions(self) -> frozenset[str]:
        """Those whose encodings take a forward, and are worth making before they are asked for."""

    async def score_sequences(
        self, context: RewardContext, answers: list[list[int]], timeout_s: float
    ) -> tuple[str, list[float]]:
        """Return (model version, reward of each whole answer).

        Raises:
            RewardUnavailableError: no answer came in time.
        """

    async def encode_preference(
        self, text: str, subject: bytes, timeout_s: float, model_version: str = ""
    ) -> tuple[str, bytes]:
        """Return (model version, encoding) of a preference; `subject` is as in RewardContext.

        A model of `model_version` is asked; where that is empty, any.

        Raises:
            RewardUnavailableError: no answer came in time.
        """

    async def forget(self, subjects: Sequence[bytes], timeout_s: float) -> bool:
        """Have dropped what is kept of these users' requests; say whether all of it was."""


class Replica(Protocol):
    """A place where rewards come from, as callers are told of it."""

    @property
    def address(self) -> str: ...

    @property
    def is_available(self) -> bool: ...

    @property
    def num_free_slots(self) -> int: ...

    @property
    def model_version(self) -> str: ...

    @property
    def is_suspended(self) -> bool: ...


class Replicas(Protocol):
    """All of them."""

    @property
    def replicas(self) -> Sequence[Replica]: ...
