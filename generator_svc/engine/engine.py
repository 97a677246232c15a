"""Continuous batching with a reward at every token: the loop that writes all answers.

Only this loop changes scheduler and KV-cache state; RPC handlers submit, await their own tokens,
and mark a sequence cancelled. One step, for all sequences at once:

1. the tokens chosen last go to the reward replicas (commit; nothing is awaited),
2. the base model's forward runs at the same time on the model thread,
3. the K candidates of each row go out and their rewards come back,
4. guidance and sampling choose a token a row, which goes to each answer's reader.
"""

import asyncio
import time

import torch
from torch import Tensor

from generator_svc.decoding.candidates import stack_candidates
from generator_svc.decoding.choice import RowChoice, choose
from generator_svc.engine.observer import EngineObserver
from generator_svc.engine.scheduler import Batch, Scheduler
from generator_svc.engine.scorer import RewardScorer, RewardSession, SessionState
from generator_svc.engine.sequence import Sequence
from generator_svc.engine.step_model import StepModel
from svc_common.errors import RewardUnavailableError, ShuttingDownError
from svc_common.lm.model_thread import ModelThread

REWARDS_RETRY_S = 2.0  # an unguided answer asks for rewards again no more often


class Engine:
    """Writes the answers of all sequences that were submitted."""

    def __init__(
        self,
        model: StepModel,
        thread: ModelThread,
        scheduler: Scheduler,
        scorer: RewardScorer,
        observer: EngineObserver,
    ) -> None:
        self._model = model
        self._thread = thread
        self._scheduler = scheduler
        self._scorer = scorer
        self._observer = observer
        self._wake = asyncio.Event()

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; its tokens come from `sequence.tokens()`.

        Raises:
            OverloadedError: the queue is full.
        """
        self._scheduler.add(sequence)
        self._wake.set()

    def cancel(self, sequence: Sequence) -> None:
        """Mark a sequence nobody reads any more; its slot is free after the running step."""
        sequence.is_cancelled = True
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled. Should a step fail, every sequence ends with an error."""
        error: Exception = ShuttingDownError("server: is stopping, send the request elsewhere")
        try:
            while True:
                await self._step()
        except Exception as step_error:
            error = step_error
            raise
        finally:
            for sequence in self._scheduler.everyone:
                self._end(sequence, error)

    async def _step(self) -> None:
        """Advance both models, propose, score, choose, emit; or wait while nothing can be done."""
        self._wake.clear()
        self._sweep()
        self._admit()
        batch = self._scheduler.next_batch()
        if not batch.is_empty:
            await self._forward(batch)
        ready = [s for s in self._scheduler.active if self._can_choose(s)]
        if ready:
            await self._choose(ready)
        self._observer.load(
            num_active=len(self._scheduler.active),
            num_waiting=self._scheduler.num_waiting,
            num_free_slots=self._model.num_free,
        )
        if batch.is_empty and not ready:
            await self._wake.wait()

    def _sweep(self) -> None:
        """End what was cancelled, and answers that can get no rewards and want none else."""
        for sequence in self._scheduler.everyone:
            if sequence.is_cancelled:
                self._end(sequence)
            elif sequence.has_lost_rewards and not sequence.can_fall_back:
                assert sequence.session is not None
                lost = RewardUnavailableError("reward service: no replica answered in time")
                self._end(sequence, sequence.session.error or lost)

    def _admit(self) -> None:
        for sequence in self._scheduler.admit():
            if sequence.params.is_guided:
                self._open_session(sequence)

    def _open_session(self, sequence: Sequence) -> None:
        """Let a replica read the prefix, while we read the prompt ourselves."""
        assert sequence.params.reward_context is not None
        sequence.session = RewardSession(
            sequence.params.reward_context, sequence.token_ids, self._wake.set, sequence
        )
        self._scorer.open(sequence.session)

    async def _forward(self, batch: Batch) -> None:
        """Commit the last tokens at the reward service and run them ourselves, both at once."""
        sessions = [s.session for s in batch.decodes if s.session is not None]
        self._scorer.commit([s for s in sessions if s.state is SessionState.OPEN])
        await asyncio.sleep(0)  # the commit leaves before our forward takes the interpreter
        started = time.perf_counter()
        if batch.prefill is not None and batch.prefill.num_prefilled == 0:
            batch.prefill.timings.queue_s = started - batch.prefill.arrived_at
            self._observer.started(batch.prefill.timings.queue_s)
        await self._thread.run(self._model.run, batch)
        seconds = time.perf_counter() - started
        for sequence in batch.decodes:
            sequence.timings.generator_forward_s += seconds
        if batch.prefill is not None:
            batch.prefill.timings.prefill_s += seconds
            self._observer.phase("generator_prefill", seconds)
        if batch.decodes:
            self._observer.phase("generator_forward", seconds)
            self._observer.batch(len(batch.decodes))

    def _can_choose(self, sequence: Sequence) -> bool:
        """Whether a sequence has candidates, and rewards for them or leave to do without."""
        if sequence.candidates is None:
            return False
        if sequence.session is None:
            return True
        if sequence.session.state is SessionState.OPEN:
            return not sequence.session.is_scoring
        if not sequence.can_fall_back:
            return False
        now = time.perf_counter()
        if self._scorer.is_available and now >= sequence.rewards_retry_at:  # back to guidance
            sequence.rewards_retry_at = now + REWARDS_RETRY_S
            self._open_session(sequence)
            return False
        return True

    async def _choose(self, ready: list[Sequence]) -> None:
        """Score the candidates of `ready` and give each its next token."""
        started = time.perf_counter()
        scored = [s for s in ready if s.session and s.session.state is SessionState.OPEN]
        rewards = await self._score(scored) if scored else {}
        received = time.perf_counter()
        # A sequence that lost its session keeps its candidates and waits for a new one.
        chosen = [s for s in ready if s in rewards or s not in scored]
        if not chosen:
            return
        candidates = stack_candidates([s.candidates for s in chosen if s.candidates])  # [B, K]
        padded = torch.zeros_like(candidates.logprobs)  # [B, K]
        for i, sequence in enumerate(chosen):
            if sequence in rewards:
                padded[i, : sequence.params.top_k] = rewards[sequence]
        params = [s.row_params(is_guided=s in rewards) for s in chosen]
        choices = choose(candidates, padded, params)
        selected = time.perf_counter()
        for i, sequence in enumerate(chosen):
            is_guided = sequence in rewards
            sequence.timings.reward_wait_s += (received - started) * is_guided
            sequence.timings.select_s += selected - received
            self._accept(sequence, choices.of_row(i, sequence.params.top_k), is_guided=is_guided)
        if scored:
            self._observer.phase("reward_wait", received - started)
        self._observer.phase("select", selected - received)
        self._observer.phase("emit", time.perf_counter() - selected)

    async def _score(self, scored: list[Sequence]) -> dict[Sequence, Tensor]:
        """Return the rewards `[K]` of each sequence that got some."""
        rows = [(s.session, s.candidates.token_ids) for s in scored if s.session and s.candidates]
        answers = await self._scorer.score(rows)
        pairs = zip(scored, answers, strict=True)
        return {sequence: answer for sequence, answer in pairs if answer is not None}

    def _accept(self, sequence: Sequence, choice: RowChoice, *, is_guided: bool) -> None:
        """Append a token to its answer, emit it, and end the answer if it is complete."""
        previous = sequence.last_token_at
        token = sequence.accept(choice, self._model.context_length, is_guided=is_guided)
        since = sequence.last_token_at - previous if previous else None
        self._observer.token(token, sequence, since)
        if token.finish_reason is not None:
            self._end(sequence)

    def _end(self, sequence: Sequence, error: Exception | None = None) -> None:
        """Take a sequence out; tell its reader why if it did not end by itself."""
        self._scheduler.remove(sequence)
        if sequence.session is not None:
            self._scorer.close(sequence.session)
        if error is not None:
            sequence.fail(error)
