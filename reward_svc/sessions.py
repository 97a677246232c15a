"""What is done to sessions in the KV cache. Everything here runs on the model thread."""

import time
from collections.abc import Generator, Sequence
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reward_svc import scoring
from reward_svc.metrics import PrefixMetrics
from reward_svc.model import PersRM
from reward_svc.preference_head import apply_vectors
from reward_svc.prefix_cache import PrefixCache
from reward_svc.prompts import Plan, RowPrompt
from reward_svc.stream import Session
from svc_common.errors import OverloadedError
from svc_common.lm.slots import Row

MAX_SCORED_PLACES = 1 << 14  # terms x candidates that are gathered from lm_head at once

Steps = Generator[int, None, None]
"""Work that yields after each forward the number of tokens it ran."""


class SessionCache:
    """The KV cache of all sessions and of the prefixes they have in common.

    Args:
        model: The reward model.
        num_slots: Rows of the cache.
        prefill_chunk: Most tokens of one prefill forward.
        max_prefix_tokens: Bound of the prefix cache.
        metrics: Told what the prefix cache saved.
    """

    def __init__(
        self,
        model: PersRM,
        *,
        num_slots: int,
        prefill_chunk: int,
        max_prefix_tokens: int,
        metrics: PrefixMetrics,
    ) -> None:
        self.model = model
        self.runner = model.new_runner(num_slots)
        self.prefixes = PrefixCache(max_prefix_tokens)
        self.prefill_chunk = prefill_chunk
        self.num_slots = num_slots
        self._metrics = metrics

    def exchange(self, closed: Sequence[Session], opened: Sequence[Session]) -> list[Session]:
        """Free the rows of closed sessions, take rows for opened ones; return those left without.

        A session gets all of its rows or none.
        """
        for session in closed:
            while session.rows:
                self.runner.close(session.rows.pop())
        refused = []
        for session in opened:
            prompts = session.opening.plan.prompts
            if session.is_closed:
                continue
            if len(prompts) > self.runner.num_free:
                refused.append(session)
                continue
            session.rows.extend(self.runner.open(prompt.group) for prompt in prompts)
        return refused

    def prefill(self, session: Session) -> Steps:
        """Run a session's prompts and the tokens already written."""
        plan, written = session.opening.plan, session.opening.token_ids
        session.vectors = yield from self.vectors(plan)
        hidden = []
        for row, prompt in zip(session.rows, plan.prompts, strict=True):
            last, num_cached = yield from self.fill(row, prompt, written)
            session.num_cached_tokens += num_cached
            hidden.append(last)
        session.num_committed = len(written)
        session.hidden = torch.cat(hidden)  # [R, D]

    def vectors(self, plan: Plan) -> Generator[int, None, Tensor | None]:
        """Return the vectors of the terms that have one: `[P, 2D]`, None if no term has."""
        if self.model.vectors is None:
            return None
        return (yield from self.model.vectors.of_terms(plan.terms))

    def fill(
        self, row: Row, prompt: RowPrompt, written: Sequence[int] = ()
    ) -> Generator[int, None, tuple[Tensor, int]]:
        """Run a prompt and what follows it on an empty row, but for what is in the prefix cache.

        Returns:
            The last hidden state `[1, D]`, and how many tokens came from the cache.
        """
        token_ids = [*prompt.token_ids, *written]
        contents, length = self.prefixes.find(row.group, token_ids)
        num_cached = min(length, len(token_ids) - 1)  # the last token's hidden state is needed
        if num_cached:
            self.runner.write(row, contents, num_cached)
        self._count(prompt, length)
        is_kept = length >= prompt.prefix_length
        while True:
            chunk = token_ids[row.length : row.length + self.prefill_chunk]
            hidden = self.runner.append(row, chunk)  # [1, D]
            if not is_kept and row.length >= prompt.prefix_length:
                self._keep_prefix(row, prompt.token_ids[: prompt.prefix_length])
                is_kept = True
            yield len(chunk)
            if row.length == len(token_ids):
                return hidden, num_cached

    def warm(self, prompt: RowPrompt) -> Steps:
        """Put a prompt into the prefix cache.

        Raises:
            OverloadedError: All rows are in use.
        """
        if self.prefixes.has(prompt.group, prompt.token_ids):
            return
        if not self.runner.num_free:
            raise OverloadedError("num_slots: a row is needed, none is free")
        row = self.runner.open(prompt.group)
        try:
            yield from self.fill(row, prompt)
            self._keep_prefix(row, prompt.token_ids)
        finally:
            self.runner.close(row)

    def _keep_prefix(self, row: Row, token_ids: Sequence[int]) -> None:
        if len(token_ids) <= self.prefixes.max_tokens:
            self.prefixes.put(row.group, token_ids, self.runner.read(row, len(token_ids)))
            self._metrics.prefix_tokens.set(self.prefixes.num_tokens)

    def _count(self, prompt: RowPrompt, num_found: int) -> None:
        num_cached = min(num_found, len(prompt.token_ids))
        self._metrics.prompt_tokens.labels("cache").inc(num_cached)
        self._metrics.prompt_tokens.labels("forward").inc(len(prompt.token_ids) - num_cached)
        if prompt.prefix_length:
            is_hit = num_found >= prompt.prefix_length
            (self._metrics.prefix_hits if is_hit else self._metrics.prefix_misses).inc()

    def commit(self, sessions: Sequence[Session], token_ids: Sequence[int]) -> None:
        """Run one token on all rows of each session: one forward, however many there are."""
        started = time.perf_counter()
        rows = [row for session in sessions for row in session.rows]
        counts = [len(session.rows) for session in sessions]
        hidden = self.runner.decode(rows, np.repeat(token_ids, counts).tolist())  # [R, D]
        self._wait_for_device()
        forward_s = time.perf_counter() - started
        ends = list(accumulate(counts))
        for session, last in zip(sessions, hidden.tensor_split(ends[:-1]), strict=True):
            session.hidden = last
            session.num_committed += 1
            session.forward_s = forward_s

    def score(
        self, asked: Sequence[tuple[Session, NDArray[np.uint32]]]
    ) -> list[NDArray[np.float32]]:
        """Return the rewards of each session's candidates, without a forward."""
        rewards: list[NDArray[np.float32]] = []
        start, num_terms, longest = 0, 0, 0
        for i, (session, ids) in enumerate(asked):
            count = len(session.opening.plan.terms)
            num_terms, longest = num_terms + count, max(longest, len(ids))
            if num_terms * longest > MAX_SCORED_PLACES and i > start:
                rewards += self._score(asked[start:i])
                start, num_terms, longest = i, count, len(ids)
        return rewards + self._score(asked[start:])

    @torch.inference_mode()
    def _score(
        self, asked: Sequence[tuple[Session, NDArray[np.uint32]]]
    ) -> list[NDArray[np.float32]]:
        counts = [len(ids) for _, ids in asked]
        candidates = np.zeros((len(asked), max(counts)), np.int64)  # [B, K]
        for target, (_, ids) in zip(candidates, asked, strict=True):
            target[: len(ids)] = ids
        sessions = [session for session, _ in asked]
        plans = [session.opening.plan for session in sessions]
        num_terms = [len(plan.terms) for plan in plans]
        owners = torch.from_numpy(np.repeat(np.arange(len(asked)), num_terms))  # [S]
        places = torch.from_numpy(np.concatenate([np.arange(n) for n in num_terms]))  # [S]
        weights = torch.tensor([weight for plan in plans for weight in plan.weights])  # [S]
        groups = torch.tensor([group for plan in plans for group in plan.groups])  # [S]
        hidden = _term_states(sessions)  # [S, D]
        logits = self._logits(hidden, torch.from_numpy(candidates)[owners], groups)  # [S, K]
        logprobs = scoring.candidate_logprobs(logits, torch.tensor(counts)[owners])  # [S, K]
        rewards = scoring.weighted_sum(logprobs, weights, owners, places).numpy()  # [B, K]
        return [row[:count] for row, count in zip(rewards, counts, strict=True)]

    def _logits(self, hidden: Tensor, candidate_ids: Tensor, groups: Tensor) -> Tensor:
        """Return each term's logits by the head of its group, on the CPU: `[S, K]` float32.

        K numbers a term are so few that every further step is faster there.
        """
        logits = torch.empty(candidate_ids.shape)  # [S, K]
        for group, head in enumerate(self.model.heads):
            members = (groups == group).nonzero().squeeze(1)
            if len(members):
                ids = candidate_ids[members].to(hidden.device)
                logits[members] = head.candidate_logits(
                    hidden[members.to(hidden.device)], ids
                ).cpu()
        return logits

    def _wait_for_device(self) -> None:
        """Let the clock see the forward itself, not only its start."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)


def _hidden(session: Session) -> Tensor:
    assert session.hidden is not None, "session is not ready"
    return session.hidden


def _term_states(sessions: Sequence[Session]) -> Tensor:
    """Return the hidden state that each term's logits come from: `[S, D]`."""
    hidden = torch.cat([_hidden(session) for session in sessions])  # [R, D]
    plans = [session.opening.plan for session in sessions]
    if sum(len(plan.terms) for plan in plans) > len(hidden):  # else they are in the same order
        starts = accumulate(len(plan.prompts) for plan in plans[:-1])
        pairs = zip((0, *starts), plans, strict=True)
        rows = [start + term.row for start, plan in pairs for term in plan.terms]
        hidden = hidden[torch.tensor(rows, device=hidden.device)]  # [S, D]
    vectors = [session.vectors for session in sessions if session.vectors is not None]
    if vectors:
        has_vector = [term.preference is not None for plan in plans for term in plan.terms]
        changed = torch.from_numpy(np.flatnonzero(has_vector)).to(hidden.device)  # [P]
        hidden[changed] = apply_vectors(hidden[changed], torch.cat(vectors))
    return hidden
