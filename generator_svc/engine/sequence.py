"""One answer in the making: what was asked, what is written so far, and who reads it."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum

from torch import Tensor

from generator_svc.decoding.candidates import CandidateRow
from generator_svc.decoding.choice import Choices, RowParams
from generator_svc.decoding.explanation import TokenExplanation
from generator_svc.decoding.strategies import Reference
from generator_svc.engine.fair_line import Priority
from generator_svc.engine.scorer import RewardContext, RewardSession, SessionState
from svc_common.errors import OverloadedError, RewardUnavailableError
from svc_common.lm.slots import Row
from svc_common.lm.tokenizer import TextStream

MAX_SEED = (1 << 64) - 1


class FinishReason(Enum):
    """Why an answer ended."""

    END_OF_TURN = "end_of_turn"
    STOP_STRING = "stop_string"
    LENGTH = "length"


@dataclass(frozen=True)
class GenerationParams:
    """How tokens are chosen; checked at the door.

    `reward_context` is None where no step is guided; with `falls_back` a step without rewards is
    chosen by the base model, without it the answer fails.
    """

    beta: float
    top_k: int
    temperature: float
    top_p: float
    seed: int
    max_tokens: int
    ignores_end_of_turn: bool = False
    reward_context: RewardContext | None = None
    falls_back: bool = False

    def with_seed(self, seed: int) -> "GenerationParams":
        """Return the same with another seed (wrapping at 64 bits)."""
        return replace(self, seed=seed & MAX_SEED)

    @property
    def is_guided(self) -> bool:
        return self.reward_context is not None and self.beta > 0


@dataclass(frozen=True)
class ChosenToken:
    """One token of an answer and how it was chosen; see Token in generator.proto.

    It is row `row` of the step's `choices`; what it was chosen from is read only where it is asked
    for.
    """

    index: int
    text: str
    token_id: int
    logprob: float
    reward: float
    is_guided: bool
    is_changed: bool
    base_token_id: int
    finish_reason: FinishReason | None
    choices: Choices = field(repr=False)
    row: int
    num_candidates: int
    explanation: TokenExplanation | None = None

    def candidates(self) -> Iterator[tuple[int, float, float, float]]:
        """Yield token id, log-probability, reward and score of each candidate, likeliest first."""
        row, k = self.row, self.num_candidates
        choices = self.choices
        block = choices.candidates
        columns = (block.token_ids, block.logprobs, choices.rewards, choices.scores)
        yield from zip(*(values[row, :k].tolist() for values in columns), strict=True)


@dataclass
class RewardModelUse:
    """A reward model that guided an answer; see RewardModelUse in generator.proto."""

    version: str
    first_index: int
    num_guided_tokens: int = 0


@dataclass
class Timings:
    """Seconds of one answer by phase; see Timings in generator.proto."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    time_to_first_token_s: float = 0.0
    generator_forward_s: float = 0.0
    reward_wait_s: float = 0.0
    select_s: float = 0.0
    total_s: float = 0.0


@dataclass(eq=False)
class Sequence:
    """An answer in the engine. Only the engine loop changes it; a reader may `cancel`.

    `deadline` is the caller's, by `time.monotonic`.
    """

    request_id: str
    prompt_ids: list[int]
    params: GenerationParams
    text: TextStream
    end_of_turn_ids: frozenset[int]
    tenant: str = "default"
    priority: Priority = Priority.INTERACTIVE
    deadline: float = math.inf
    subject: bytes = b""  # whose; what is kept of its prompt is kept for that user
    token_ids: list[int] = field(default_factory=list)
    num_prefilled: int = 0  # prompt tokens that were run
    row: Row | None = None
    prompt_end: Tensor | None = None  # last hidden state of the prompt `[1, D]`
    candidates: CandidateRow | None = None  # set while a token is to be chosen
    session: RewardSession | None = None
    is_cancelled: bool = False
    left_in_step: int | None = None  # the engine's step in which its reader left, or time was up
    timings: Timings = field(default_factory=Timings)
    reward_models: list[RewardModelUse] = field(default_factory=list)
    arrived_at: float = field(default_factory=time.perf_counter)
    started_at: float = 0.0  # when it got a slot
    rewards_retry_at: float = 0.0  # earliest time to open a lost reward session again
    last_token_at: float = 0.0
    _text: str = ""  # of the token that was appended and is not emitted yet
    _outputs: asyncio.Queue[ChosenToken | Exception] = field(default_factory=asyncio.Queue)

    @property
    def step(self) -> int:
        """Position of the next token in the answer."""
        return len(self.token_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens it claims: its prompt's and the most that may be written."""
        return len(self.prompt_ids) + self.params.max_tokens

    @property
    def num_used_tokens(self) -> int:
        """Tokens it took so far."""
        return len(self.prompt_ids) * (self.num_prefilled > 0) + len(self.token_ids)

    @property
    def is_expired(self) -> bool:
        """Whether its caller's deadline has passed."""
        return time.monotonic() >= self.deadline

    @property
    def phase(self) -> str:
        """What it waits for: a slot, its prompt to be read, a reward session, or tokens."""
        if self.row is None:
            return "slot"
        if self.num_prefilled < len(self.prompt_ids):
            return "prompt"
        is_opening = self.session is not None and self.session.state is SessionState.OPENING
        return "rewards" if is_opening else "tokens"

    @property
    def needs_forward(self) -> bool:
        """Whether its last token was chosen and not yet run."""
        return bool(self.token_ids) and self.candidates is None

    @property
    def has_lost_rewards(self) -> bool:
        """Whether no replica could open (or open again) its reward session."""
        return self.session is not None and self.session.state is SessionState.FAILED

    @property
    def can_fall_back(self) -> bool:
        """Whether it lost its rewards in a way that the base model may bridge.

        A request that the reward service refuses for good is an error for any policy.
        """
        error = None if self.session is None else self.session.error
        is_passing = isinstance(error, RewardUnavailableError | OverloadedError)
        return self.params.falls_back and self.has_lost_rewards and is_passing

    def row_params(self, *, is_guided: bool) -> RowParams:
        """Return how its next token is chosen, with rewards or without."""
        context = self.params.reward_context
        lacks_base = is_guided and context is not None and context.reference is Reference.BASE
        return RowParams(
            beta=self.params.beta if is_guided else 0.0,
            temperature=self.params.temperature,
            top_p=self.params.top_p,
            seed=self.params.seed,
            step=self.step,
            base_weight=context.total_weight if lacks_base and context is not None else 0.0,
        )

    def note_reward_model(self) -> None:
        """Note which reward model guides the token that is appended next."""
        assert self.session is not None
        version = self.session.model_version
        if not self.reward_models or self.reward_models[-1].version != version:
            self.reward_models.append(RewardModelUse(version, self.step))
        self.reward_models[-1].num_guided_tokens += 1

    def would_end(self, token_id: int, context_length: int) -> bool:
        """Whether the answer would end with this token, stop strings apart."""
        if token_id in self.end_of_turn_ids and not self.params.ignores_end_of_turn:
            return True
        return len(self.token_ids) + 1 >= self._max_tokens(context_length)

    def append(self, token_id: int, context_length: int) -> FinishReason | None:
        """Append the chosen token and say whether it ends the answer; `emit` follows."""
        self.candidates = None
        self.token_ids.append(token_id)
        if self.text.can_stop:  # else the text can wait until the next forward runs
            self._text = self.text.push(token_id)
        return self._finish_reason(token_id, context_length)

    def emit(
        self,
        choices: Choices,
        row: int,
        finish_reason: FinishReason | None,
        *,
        is_guided: bool,
        explanation: TokenExplanation | None = None,
    ) -> ChosenToken:
        """Hand the token that was appended last to the reader and return it."""
        token_id = choices.token_ids[row]
        text = self._text if self.text.can_stop else self.text.push(token_id)
        if finish_reason is not None:
            text += self.text.finish()
        token = ChosenToken(
            index=self.step - 1,
            text=text,
            token_id=token_id,
            logprob=choices.logprobs[row],
            reward=choices.chosen_rewards[row],
            is_guided=is_guided,
            is_changed=choices.columns[row] != choices.base_columns[row],
            base_token_id=choices.base_token_ids[row],
            finish_reason=finish_reason,
            choices=choices,
            row=row,
            num_candidates=self.params.top_k,
            explanation=explanation,
        )
        self._time_token()
        self._outputs.put_nowait(token)
        return token

    def fail(self, error: Exception) -> None:
        """Tell the reader that the answer ends here, and why."""
        self._outputs.put_nowait(error)

    def _finish_reason(self, token_id: int, context_length: int) -> FinishReason | None:
        """Say whether the answer ends with `token_id`, which was just added."""
        if token_id in self.end_of_turn_ids and not self.params.ignores_end_of_turn:
            return FinishReason.END_OF_TURN
        if self.text.is_stopped:
            return FinishReason.STOP_STRING
        is_full = len(self.token_ids) >= self._max_tokens(context_length)
        return FinishReason.LENGTH if is_full else None

    def _max_tokens(self, context_length: int) -> int:
        limits = [self.params.max_tokens, context_length - len(self.prompt_ids)]
        if self.session is not None and self.session.max_answer_tokens is not None:
            limits.append(self.session.max_answer_tokens)
        return min(limits)

    def _time_token(self) -> None:
        now = time.perf_counter()
        if not self.last_token_at:
            self.timings.time_to_first_token_s = now - self.arrived_at
        self.last_token_at = now
        self.timings.total_s = now - self.arrived_at

    async def tokens(self) -> AsyncIterator[ChosenToken]:
        """Yield the tokens as they are chosen.

        Raises:
            ServiceError: what ended the answer before its time.
        """
        while True:
            output = await self._outputs.get()
            if isinstance(output, Exception):
                raise output
            yield output
            if output.finish_reason is not None:
                return
