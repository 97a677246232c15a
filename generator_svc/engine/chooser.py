"""From the candidates of a step to its tokens: ask for rewards, add them, choose."""

import asyncio
import time
from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from torch import Tensor

from generator_svc.decoding.candidates import Candidates, gather_candidates
from generator_svc.decoding.choice import Choices, RowParams, choose_base, prepare
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
        places = [i for i, is_scored in enumerate(proposal.is_scored) if is_scored]
        scoring = self._ask(proposal, places, guesses) if places else None
        if scoring is not None:
            await asyncio.sleep(0)  # the question leaves before what can be done meanwhile
        prepared = prepare(block, _row_params(sequences, proposal.is_scored))
        scored = _unscored(proposal) if scoring is None else await scoring
        if 0 < len(places) < len(sequences):
            scored = _spread(scored, proposal, places)
        rewards, is_guided = scored.rewards, scored.has_rewards
        received = time.perf_counter()
        rows = list(range(len(sequences)))
        if is_guided != proposal.is_scored:  # some lost their session
            rows = [i for i in rows if is_guided[i] or not proposal.is_scored[i]]
            if not rows:
                return []
            kept = torch.tensor(rows)
            block = Candidates(block.token_ids[kept], block.logprobs[kept])
            rewards = rewards[kept]
            left = [sequences[i] for i in rows]
            prepared = prepare(block, _row_params(left, [is_guided[i] for i in rows]))
        choices = prepared.choose(rewards)
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

    def _ask(
        self, proposal: Proposal, places: list[int], guesses: list[int | None] | None
    ) -> "asyncio.Future[ScoredRows]":
        """Ask for the rewards of the sequences at `places`."""
        sequences, block = proposal.sequences, proposal.block
        sessions = [session for i in places if (session := sequences[i].session) is not None]
        counts = [sequences[i].params.top_k for i in places]
        if len(places) < len(sequences):
            block = Candidates(block.token_ids[places], block.logprobs[places])
        return self._scorer.score(ScoreRows(sessions, block, counts, guesses))


def _spread(scored: ScoredRows, proposal: Proposal, places: list[int]) -> ScoredRows:
    """Return as the rewards of all sequences, `[B, K]`, those of the ones at `places`."""
    everyone = _unscored(proposal)
    everyone.rewards[places, : scored.rewards.shape[1]] = scored.rewards
    for i, has_rewards in zip(places, scored.has_rewards, strict=True):
        everyone.has_rewards[i] = has_rewards
    by_preference = {places[i]: its for i, its in scored.by_preference.items()}
    return ScoredRows(everyone.rewards, everyone.has_rewards, by_preference)


def _unscored(proposal: Proposal) -> ScoredRows:
    rewards = torch.zeros_like(proposal.block.logprobs)
    return ScoredRows(rewards, [False] * len(proposal.sequences))


def _row_params(sequences: Items[Sequence], is_guided: Items[bool]) -> list[RowParams]:
    pairs = zip(sequences, is_guided, strict=True)
    return [sequence.row_params(is_guided=guided) for sequence, guided in pairs]
