"""From the candidates of a step to its tokens: ask for rewards, add them, choose."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from generator_svc.decoding.candidates import Candidates, gather_candidates
from generator_svc.decoding.choice import Choices, choose, choose_base
from generator_svc.engine.observer import EngineObserver
from generator_svc.engine.scorer import RewardScorer, ScoreRows, SessionState
from generator_svc.engine.sequence import Sequence


@dataclass(frozen=True)
class Chosen:
    """A sequence's next token: row `row` of the step's `choices`."""

    sequence: Sequence
    choices: Choices
    row: int
    is_guided: bool

    @property
    def token_id(self) -> int:
        return self.choices.token_ids[self.row]


class Proposal:
    """What is to be chosen in a step: sequences, and the block of their candidates."""

    def __init__(self, sequences: list[Sequence]) -> None:
        self.sequences = sequences
        self.block = gather_candidates([s.candidates for s in sequences if s.candidates])  # [B, K]
        # Noted now: a session may be lost while it is scored.
        self.is_scored = [
            s.session is not None and s.session.state is SessionState.OPEN for s in sequences
        ]

    def guesses(self, context_length: int) -> list[int | None]:
        """Return the base model's own choice for each row; None where it would end the answer."""
        params = [s.row_params(is_guided=True) for s in self.sequences]
        token_ids = choose_base(self.block, params)
        pairs = zip(self.sequences, token_ids, strict=True)
        return [
            None if s.would_end(token_id, context_length) else token_id for s, token_id in pairs
        ]


class Chooser:
    """Chooses the next tokens of sequences that have candidates."""

    def __init__(self, scorer: RewardScorer, observer: EngineObserver) -> None:
        self._scorer = scorer
        self._observer = observer

    async def choose(
        self, proposal: Proposal, guesses: list[int | None] | None = None
    ) -> list[Chosen]:
        """Return the tokens of all sequences but those that lost their session.

        Those keep their candidates and wait for a new one.

        Args:
            guesses: one a row; their rewards' sessions go on with them meanwhile.
        """
        sequences, block = proposal.sequences, proposal.block
        started = time.perf_counter()
        rewards, is_guided = await self._score(proposal, guesses)
        received = time.perf_counter()
        rows = list(range(len(sequences)))
        if not all(is_guided):
            rows = [i for i in rows if is_guided[i] or not proposal.is_scored[i]]
        if not rows:
            return []
        if len(rows) < len(sequences):
            kept = torch.tensor(rows)
            block = Candidates(block.token_ids[kept], block.logprobs[kept])
            rewards = rewards[kept]
        params = [sequences[i].row_params(is_guided=is_guided[i]) for i in rows]
        choices = choose(block, rewards, params)
        selected = time.perf_counter()
        for i in rows:
            timings = sequences[i].timings
            timings.reward_wait_s += (received - started) * is_guided[i]
            timings.select_s += selected - received
        if any(is_guided):
            self._observer.phase("reward_wait", received - started)
        self._observer.phase("select", selected - received)
        return [Chosen(sequences[i], choices, row, is_guided[i]) for row, i in enumerate(rows)]

    async def _score(
        self, proposal: Proposal, guesses: list[int | None] | None
    ) -> tuple[Tensor, list[bool]]:
        """Return rewards `[B, K]`, and which of the rows got some."""
        sequences, block = proposal.sequences, proposal.block
        places = [i for i, is_scored in enumerate(proposal.is_scored) if is_scored]
        if not places:
            return torch.zeros_like(block.logprobs), [False] * len(sequences)
        sessions = [session for i in places if (session := sequences[i].session) is not None]
        counts = [sequences[i].params.top_k for i in places]
        is_all = len(places) == len(sequences)
        asked = block if is_all else Candidates(block.token_ids[places], block.logprobs[places])
        scored = await self._scorer.score(ScoreRows(sessions, asked, counts, guesses))
        if is_all:
            return scored.rewards, scored.has_rewards
        rewards, is_guided = torch.zeros_like(block.logprobs), [False] * len(sequences)
        rewards[places, : scored.rewards.shape[1]] = scored.rewards
        for i, has_rewards in zip(places, scored.has_rewards, strict=True):
            is_guided[i] = has_rewards
        return rewards, is_guided
