"""Asks replicas for rewards, one message a replica, and lets late ones be late."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from generator_svc.decoding.explanation import against_base
from generator_svc.decoding.guidance import subtract_base
from generator_svc.engine.scorer import ScoredRows, ScoreRows, SessionState
from generator_svc.reward_client.case import Case, LateAnswer
from generator_svc.reward_client.placement import Placement
from generator_svc.reward_client.replica import Replica
from generator_svc.reward_client.wire import CandidateBlock

STRAGGLER_S = 0.25  # the answers of other replicas wait this long for a late one


@dataclass(frozen=True)
class _Asked:
    """What one replica was asked in a round: rows of it, and where their sessions were then.

    `logprobs` are all rows' `[B, K]`, as the base model gives them.
    """

    logprobs: Tensor
    rows: list[int]
    cases: list[Case]
    placements: list[Placement]
    steps: list[int]
    counts: list[int]


@dataclass(eq=False)
class _Round:
    """One step's questions: rewards come in, and whoever waits is woken once, by `done`.

    Attributes:
        waiting: replicas that have not answered, with their questions.
        done: gives `scored`; nobody waits any more then, and what still comes is late.
    """

    scored: ScoredRows
    waiting: dict[Replica, _Asked]
    done: "asyncio.Future[ScoredRows]"

    def finish(self) -> None:
        """Wake whoever waits; sessions whose rewards are not there are marked `is_scoring`."""
        if self.done.done():
            return
        for asked in self.waiting.values():
            for case in asked.cases:
                case.session.is_scoring = True
        self.done.set_result(self.scored)


def _subtract_ours(scored: ScoredRows, asked: _Asked) -> ScoredRows:
    """Return rewards `[b, K]` whole: less the references that are the base model itself."""
    weights = [placement.base_weight for placement in asked.placements]
    if not any(weights):
        return scored
    logprobs = asked.logprobs[asked.rows, : scored.rewards.shape[1]]
    by_preference = {
        i: against_base(its, logprobs[i, : its.shape[1]]) if weights[i] else its
        for i, its in scored.by_preference.items()
    }
    rewards = subtract_base(scored.rewards, logprobs, torch.tensor(weights))
    return ScoredRows(rewards, scored.has_rewards, by_preference)


def _candidates(rows: ScoreRows, chosen: list[int]) -> CandidateBlock:
    """Return the candidates of some of the rows, in order."""
    guesses = rows.guesses
    if len(chosen) == len(rows.sessions):
        return CandidateBlock(rows.token_ids, rows.counts, guesses)
    counts = [rows.counts[i] for i in chosen]
    its_guesses = None if guesses is None else [guesses[i] for i in chosen]
    return CandidateBlock(rows.token_ids[chosen], counts, its_guesses)


class Questions:
    """The questions under way. Rewards that come late are kept until they are asked for again.

    Args:
        timeout_s: how long a replica may owe rewards before it is given up.
        on_lost: told of a session that its replica did not score.
    """

    def __init__(
        self, timeout_s: Callable[[Replica], float], on_lost: Callable[[Case], None]
    ) -> None:
        self._timeout_s = timeout_s
        self._on_lost = on_lost

    def ask(self, rows: ScoreRows, cases: list[Case | None]) -> "asyncio.Future[ScoredRows]":
        """Ask for the rewards of all rows whose session has a place, or had an answer kept.

        Sessions whose replica is late are marked `is_scoring`.
        """
        scored = ScoredRows(torch.zeros(rows.token_ids.shape), [False] * len(cases))
        groups = self._groups(rows, cases, scored)
        loop = asyncio.get_running_loop()
        turn = _Round(scored, dict(groups), loop.create_future())
        for replica, asked in groups.items():
            replica.ask(
                asked.placements,
                _candidates(rows, asked.rows),
                partial(self._receive, turn, replica),
                self._timeout_s(replica),
            )
        if turn.waiting:
            timer = loop.call_later(STRAGGLER_S, turn.finish)
            turn.done.add_done_callback(lambda _: timer.cancel())
        else:
            turn.finish()
        return turn.done

    def _groups(
        self, rows: ScoreRows, cases: list[Case | None], scored: ScoredRows
    ) -> dict[Replica, _Asked]:
        """Return what each replica is to be asked; answers that were kept are taken at once."""
        groups: dict[Replica, _Asked] = {}
        for row, case in enumerate(cases):
            if case is None:
                continue
            kept = case.take_answer()
            if kept is not None:
                scored.rewards[row, : len(kept.rewards)] = kept.rewards
                scored.has_rewards[row] = True
                if kept.by_preference is not None:
                    scored.by_preference[row] = kept.by_preference
            elif case.replica is not None and case.placement is not None:
                asked = groups.setdefault(
                    case.replica, _Asked(rows.candidates.logprobs, [], [], [], [], [])
                )
                asked.rows.append(row)
                asked.cases.append(case)
                asked.placements.append(case.placement)
                asked.steps.append(case.step)
                asked.counts.append(rows.counts[row])
        return groups

    def _receive(self, turn: _Round, replica: Replica, scored: ScoredRows) -> None:
        """Take a replica's answer; rows without rewards have lost their place there."""
        asked = turn.waiting.pop(replica)
        was_late = turn.done.done()
        scored = _subtract_ours(scored, asked)
        rewards = scored.rewards
        if not was_late:
            is_whole = len(asked.rows) == len(turn.scored.has_rewards)  # as in most steps
            rows = slice(None) if is_whole else asked.rows
            turn.scored.rewards[rows, : rewards.shape[1]] = rewards
        parts = zip(asked.rows, asked.cases, asked.placements, asked.steps, strict=True)
        for i, (row, case, placement, step) in enumerate(parts):
            session = case.session
            session.is_scoring = False
            if scored.has_rewards[i]:
                case.num_failures = 0
                told = scored.by_preference.get(i)
                if was_late:
                    kept = rewards[i, : asked.counts[i]]
                    case.answer = LateAnswer(step, kept, told, replica.model_version)
                else:
                    session.model_version = replica.model_version
                    turn.scored.has_rewards[row] = True
                    if told is not None:
                        turn.scored.by_preference[row] = told
            elif case.placement is placement and session.state is SessionState.OPEN:
                self._on_lost(case)
            if was_late:
                session.on_change()
        if not turn.waiting:
            turn.finish()
