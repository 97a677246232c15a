"""Asks replicas for rewards, one message a replica, and lets late ones be late."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor

from generator_svc.decoding.explanation import against_base
from generator_svc.decoding.guidance import base_part
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

    @cached_property
    def base_part(self) -> Tensor | None:
        """The part of the references that are the base model itself `[b, K]`; None without any."""
        weights = [placement.base_weight for placement in self.placements]
        if not any(weights):
            return None
        return base_part(self.logprobs[self.rows, : max(self.counts)], torch.tensor(weights))

    def prepare(self) -> None:
        """Do what the answer will need, while it is on its way."""
        _ = self.base_part


@dataclass(eq=False)
class _Round:
    """One step's questions: rewards come in, and whoever waits is woken once, by `done`.

    Attributes:
        shape: B rows of K candidates.
        done: gives `scored`; nobody waits any more then, and what still comes is late.
        waiting: replicas that have not answered, with their questions.
    """

    shape: torch.Size
    done: "asyncio.Future[ScoredRows]"
    waiting: dict[Replica, _Asked] = field(default_factory=dict)

    @cached_property
    def scored(self) -> ScoredRows:
        """What came so far; an answer that is all of it takes its place."""
        return ScoredRows(torch.zeros(self.shape), [False] * self.shape[0])

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
    if asked.base_part is None:
        return scored
    by_preference = {
        i: against_base(its, asked.logprobs[asked.rows[i], : its.shape[1]])
        if asked.placements[i].base_weight
        else its
        for i, its in scored.by_preference.items()
    }
    return ScoredRows(scored.rewards - asked.base_part, scored.has_rewards, by_preference)


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
        loop = asyncio.get_running_loop()
        turn = _Round(rows.token_ids.shape, loop.create_future())
        groups = self._groups(rows, cases, turn)
        turn.waiting = dict(groups)
        for replica, asked in groups.items():
            replica.ask(
                asked.placements,
                _candidates(rows, asked.rows),
                partial(self._receive, turn, replica),
                self._timeout_s(replica),
            )
            loop.call_soon(asked.prepare)  # once the question has left
        if turn.waiting:
            timer = loop.call_later(STRAGGLER_S, turn.finish)
            turn.done.add_done_callback(lambda _: timer.cancel())
        else:
            turn.finish()
        return turn.done

    def _groups(
        self, rows: ScoreRows, cases: list[Case | None], turn: _Round
    ) -> dict[Replica, _Asked]:
        """Return what each replica is to be asked; answers that were kept are taken at once."""
        groups: dict[Replica, _Asked] = {}
        for row, case in enumerate(cases):
            if case is None:
                continue
            kept = case.take_answer()
            if kept is not None:
                turn.scored.rewards[row, : len(kept.rewards)] = kept.rewards
                turn.scored.has_rewards[row] = True
                if kept.by_preference is not None:
                    turn.scored.by_preference[row] = kept.by_preference
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
        if not was_late and rewards.shape == turn.shape:  # as in most steps
            turn.scored = scored
        elif not was_late:
            turn.scored.rewards[asked.rows, : rewards.shape[1]] = rewards
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
