"""What is done to sessions in the KV cache. Everything here runs on the model thread."""

import time
from collections.abc import Generator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reward_svc import states
from reward_svc.messages import ByPreference
from reward_svc.metrics import PrefixMetrics
from reward_svc.model import PersRM
from reward_svc.prompts import Plan, RowPrompt
from reward_svc.scorer import Scorer
from reward_svc.stream import Group, Session
from svc_common.errors import OverloadedError
from svc_common.lm.prefill_pace import PrefillPace
from svc_common.lm.prefix_cache import PrefixCache
from svc_common.lm.slots import Row
from svc_common.lm.transfers import wait_for_stream

Steps = Generator[int, None, None]
"""Work that yields after each forward the number of tokens it ran."""


class SessionCache:
    """The KV cache of all sessions and of the prefixes they have in common.

    Args:
        model: The reward model.
        num_slots: Rows of the cache.
        pace: Bounds the tokens that a prefill may run at once.
        prefixes: Keeps the beginnings of prompts.
        metrics: Told what the prefix cache saved.
    """

    def __init__(
        self,
        model: PersRM,
        *,
        num_slots: int,
        pace: PrefillPace,
        prefixes: PrefixCache,
        metrics: PrefixMetrics,
    ) -> None:
        self.model = model
        self.runner = model.new_runner(num_slots)
        self.prefixes = prefixes
        self.pace = pace
        self.num_slots = num_slots
        self._metrics = metrics
        self._scorer = Scorer(model)

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
        return (yield from self.model.vectors.of_terms(plan.terms, plan.subject))

    def fill(
        self, row: Row, prompt: RowPrompt, written: Sequence[int] = ()
    ) -> Generator[int, None, tuple[Tensor, int]]:
        """Run a prompt and what follows it on an empty row, but for what is in the prefix cache.

        Returns:
            The last hidden state `[1, D]`, and how many tokens came from the cache.
        """
        token_ids = [*prompt.token_ids, *written]
        # The last token's hidden state is needed.
        num_cached = self.prefixes.fill(self.runner, row, token_ids[:-1], prompt.subject)
        self._count(prompt, num_cached)
        is_kept = num_cached >= prompt.prefix_length
        while True:
            chunk = token_ids[row.length : row.length + self.pace.left]
            hidden = self.run(row, chunk)  # [1, D]
            if not is_kept and row.length >= prompt.prefix_length:
                self._keep(row, prompt, prompt.prefix_length, is_shared=True)
                is_kept = True
            if row.length == len(token_ids):
                self._keep(row, prompt, len(prompt.token_ids))
            yield len(chunk)
            if row.length == len(token_ids):
                return hidden, num_cached

    def run(self, row: Row, token_ids: Sequence[int], *, all_positions: bool = False) -> Tensor:
        """Run tokens as `SlotRunner.append` does, while the pace looks at its clock."""
        with self.pace.measure(len(token_ids)):
            hidden = self.runner.append(row, token_ids, all_positions=all_positions)
            self._wait_for_device()
        return hidden

    def warm(self, prompt: RowPrompt) -> Steps:
        """Put a prompt into the prefix cache.

        Raises:
            OverloadedError: All rows are in use.
        """
        num_kept = self.prefixes.count(prompt.group, prompt.token_ids, prompt.subject)
        if num_kept == len(prompt.token_ids):
            return
        if not self.runner.num_free:
            raise OverloadedError("num_slots: a row is needed, none is free")
        row = self.runner.open(prompt.group)
        try:
            yield from self.fill(row, prompt)
            self._keep(row, prompt, len(prompt.token_ids), is_shared=True)
        finally:
            self.runner.close(row)

    def _keep(self, row: Row, prompt: RowPrompt, length: int, *, is_shared: bool = False) -> None:
        self.prefixes.keep(
            self.runner,
            row,
            prompt.token_ids[:length],
            is_shared=is_shared,
            owner=prompt.subject,
        )
        self.measure_prefixes()

    def measure_prefixes(self) -> None:
        """Say what the prefix cache holds now."""
        self._metrics.prefix_tokens.set(self.prefixes.num_tokens)
        self._metrics.prefix_bytes.set(self.prefixes.num_bytes)

    def _count(self, prompt: RowPrompt, num_found: int) -> None:
        num_cached = min(num_found, len(prompt.token_ids))
        self._metrics.prompt_tokens.labels("cache").inc(num_cached)
        self._metrics.prompt_tokens.labels("forward").inc(len(prompt.token_ids) - num_cached)
        if prompt.prefix_length:
            is_hit = num_found >= prompt.prefix_length
            (self._metrics.prefix_hits if is_hit else self._metrics.prefix_misses).inc()

    def commit(
        self, sessions: Sequence[Session], starts: Sequence[int], token_ids: Sequence[list[int]]
    ) -> None:
        """Run T tokens on all rows of each session: one forward, however many there are.

        A session that has more than `starts[i]` tokens is taken back to them first.
        """
        started = time.perf_counter()
        for session, start in zip(sessions, starts, strict=True):
            if start < session.num_committed:
                self._take_back(session, start)
        rows = [row for session in sessions for row in session.rows]
        pairs = zip(sessions, token_ids, strict=True)
        ids = [its for session, its in pairs for _ in session.rows]
        if len(ids[0]) == 1:
            hidden = self.runner.decode(rows, [its[0] for its in ids]).unsqueeze(1)  # [N, 1, D]
        else:
            hidden = self.runner.extend(rows, ids)  # [N, T, D]
        self._wait_for_device()
        states.keep_all(sessions, starts, hidden, time.perf_counter() - started)

    def _take_back(self, session: Session, num_committed: int) -> None:
        """Forget a session's tokens behind the first `num_committed`."""
        num_tokens = session.num_committed - num_committed
        for row in session.rows:
            self.runner.truncate(row, row.length - num_tokens)

    def score(
        self, group: Group, steps: list[int], counts: list[int], ids: NDArray[np.uint32]
    ) -> tuple[NDArray[np.float32], ByPreference]:
        """Return the rewards of candidates, row after row, without a forward; see `Scorer`."""
        return self._scorer.score(group, steps, counts, ids)

    def _wait_for_device(self) -> None:
        """Let the clock see the forward itself, not only its start."""
        wait_for_stream(self.model.device)
