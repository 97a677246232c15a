"""A reward pool without a network: a fake whose rewards are a naive full recompute."""

import asyncio

import torch
from torch import Tensor, nn

from generator_svc.decoding.strategies import Reference
from generator_svc.engine.scorer import (
    RewardSession,
    RewardTimes,
    ScoredRows,
    ScoreRows,
    SessionState,
)
from svc_common.errors import RewardUnavailableError
from svc_common.lm.tokenizer import Tokenizer
from svc_common.preference_prompt import add_preference


class NaiveScorer:
    """Implements `engine.scorer.RewardScorer`; opens at once unless `is_available` is False."""

    def __init__(self, theta: nn.Module, backbone: nn.Module, tokenizer: Tokenizer) -> None:
        self._theta, self._backbone, self._tokenizer = theta, backbone, tokenizer
        self.is_available = True
        self.times = RewardTimes()
        self.refusal: Exception = RewardUnavailableError("reward service: away")
        self.refuses = False  # every open fails with `refusal`
        self.late: set[RewardSession] = set()  # their rewards do not come
        self.loses_after: int | None = None  # scorings until every session is lost, once
        self.num_messages = 0  # score messages
        self.committed: dict[RewardSession, list[int]] = {}
        self.max_open = 0
        self.max_answer_tokens = 10_000

    def open(self, session: RewardSession) -> None:
        if self.refuses or not self.is_available:
            session.state = SessionState.FAILED
            session.error = self.refusal
            session.on_change()
            return
        self.committed[session] = list(session.token_ids)
        session.num_committed = len(session.token_ids)
        self.max_open = max(self.max_open, len(self.committed))
        session.state, session.error = SessionState.OPEN, None
        session.model_version = "fake"
        session.max_answer_tokens = self.max_answer_tokens
        session.on_change()

    def commit(self, sessions: list[RewardSession]) -> None:
        for session in sessions:
            held = self.committed[session][: session.num_committed]
            self.committed[session] = held + session.token_ids[session.num_committed :]
            session.num_committed = len(session.token_ids)

    def score(self, rows: ScoreRows) -> "asyncio.Future[ScoredRows]":
        self.num_messages += 1
        asked = zip(rows.sessions, rows.token_ids, rows.counts, strict=True)
        found = self._score([(session, ids[:count]) for session, ids, count in asked])
        for session, guess in zip(rows.sessions, rows.guesses or (), strict=False):
            if guess is not None and session in self.committed:
                self.committed[session].append(guess)
                session.num_committed += 1
        rewards = torch.zeros(rows.token_ids.shape)
        for row, its in zip(rewards, found, strict=True):
            if its is not None:
                row[: len(its)] = its
        by_preference = {
            i: self.naive_parts(session, rows.token_ids[i][: rows.counts[i]])
            for i, session in enumerate(rows.sessions)
            if session.context.is_explained and found[i] is not None
        }
        scored: asyncio.Future[ScoredRows] = asyncio.get_running_loop().create_future()
        scored.set_result(ScoredRows(rewards, [its is not None for its in found], by_preference))
        return scored

    def _score(self, rows: list[tuple[RewardSession, Tensor]]) -> list[Tensor | None]:
        if self.loses_after is not None and self.num_messages > self.loses_after:
            self.loses_after = None
            for session, _ in rows:
                del self.committed[session]
                session.state = SessionState.OPENING  # a replica takes a while to read the prefix
                asyncio.get_running_loop().call_later(0.01, self.open, session)
            return [None] * len(rows)
        for session, _ in rows:
            session.is_scoring = session in self.late
        return [
            None if session in self.late else self.naive_rewards(session, ids)
            for session, ids in rows
        ]

    def close(self, session: RewardSession) -> None:
        session.state = SessionState.CLOSED
        self.committed.pop(session, None)

    def naive_rewards(self, session: RewardSession, ids: Tensor) -> Tensor:
        """Equation 13, or the released rule's theta part, from scratch."""
        answer = self.committed[session]
        assert answer == session.token_ids, "rewards were asked for an uncommitted prefix"
        weights = [preference.weight for preference in session.context.preferences]
        return torch.tensor(weights) @ self.naive_parts(session, ids)

    def naive_parts(self, session: RewardSession, ids: Tensor) -> Tensor:
        """Return what each preference alone gives: `[P, K]`."""
        context, answer = session.context, session.token_ids
        assert not isinstance(context.prompt, str)
        parts = []
        for preference in context.preferences:
            guided = tuple(add_preference(context.prompt, preference.text))
            log_theta = self._logprobs(self._theta, guided, answer, ids)
            log_reference = torch.zeros_like(log_theta)
            if context.reference is Reference.BACKBONE:
                log_reference = self._logprobs(self._backbone, context.prompt, answer, ids)
            parts.append(log_theta - log_reference)
        return torch.stack(parts)

    def _logprobs(
        self,
        model: nn.Module,
        prompt: tuple,
        answer: list[int],
        ids: Tensor,  # type: ignore[type-arg]
    ) -> Tensor:
        token_ids = self._tokenizer.encode_prompt(prompt) + answer
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0, -1]
        return torch.log_softmax(logits[ids], -1)
