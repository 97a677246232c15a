"""From the candidates of a step to its tokens: ask for rewards, add them, choose."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from generator_svc.decoding.candidates import Candidates, gather_candidates
from generator_svc.decoding.choice import Choices, choose, choose_base
from generator_svc.decoding.explanation import TokenExplanation, against_base, explain
from generator_svc.decoding.strategies import Reference
from generator_svc.engine.observer import EngineObserver
from generator_svc.engine.scorer import RewardScorer, ScoredRows, ScoreRows, SessionState
from generator_svc.engine.sequence import Sequence


@dataclass(frozen=True)
class Chosen:
    """A sequence's next token: row `row` of the step's `choices`."""

    sequence: Sequence
    choices: Choices
    row: int
    is_guided: bool
    by_preference: Tensor | None = None  # [P, K], what each preference alone gives; see ScoredRows

    @property
    def token_id(self) -> int:
        return self.choices.token_ids[self.row]

    def explanation(self) -> TokenExplanation | None:
        """Return what each preference said of the token, where that is known."""
        rewards, context = self.by_preference, self.sequence.params.reward_context
        if rewards is None or context is None:
            return None
        choices, row = self.choices, self.row
        if context.reference is Reference.BASE:
            logprobs = choices.candidates.logprobs[row, : rewards.shape[1]]
            rewards = against_base(rewards, logprobs)
        weights = [preference.weight for preference in context.preferences]
        return explain(rewards, weights, choices.columns[row], choices.base_columns[row])


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
        scored = await self._score(proposal, guesses)
        rewards, is_guided = scored.rewards, scored.has_rewards
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
        told = scored.by_preference
        return [
            Chosen(sequences[i], choices, row, is_guided[i], told.get(i) if told else None)
            for row, i in enumerate(rows)
        ]

    async def _score(self, proposal: Proposal, guesses: list[int | None] | None) -> ScoredRows:
        """Return rewards `[B, K]` of all sequences, and which of them got some."""
        sequences, block = proposal.sequences, proposal.block
        places = [i for i, is_scored in enumerate(proposal.is_scored) if is_scored]
        if not places:
            return ScoredRows(torch.zeros_like(block.logprobs), [False] * len(sequences))
        sessions = [session for i in places if (session := sequences[i].session) is not None]
        counts = [sequences[i].params.top_k for i in places]
        is_all = len(places) == len(sequences)
        asked = block if is_all else Candidates(block.token_ids[places], block.logprobs[places])
        scored = await self._scorer.score(ScoreRows(sessions, asked, counts, guesses))
        if is_all:
            return scored
        rewards, is_guided = torch.zeros_like(block.logprobs), [False] * len(sequences)
        rewards[places, : scored.rewards.shape[1]] = scored.rewards
        for i, has_rewards in zip(places, scored.has_rewards, strict=True):
            is_guided[i] = has_rewards
        by_preference = {places[i]: its for i, its in scored.by_preference.items()}
        return ScoredRows(rewards, is_guided, by_preference)
