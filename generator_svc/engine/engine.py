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

from generator_svc.decoding.candidates import CandidateRow, Candidates
from generator_svc.engine.chooser import Chooser, Chosen, Proposal
from generator_svc.engine.deadlines import Deadlines
from generator_svc.engine.observer import EngineObserver
from generator_svc.engine.run_ahead import RunAhead
from generator_svc.engine.scheduler import Batch, Place, Scheduler
from generator_svc.engine.scorer import RewardScorer, RewardSession, SessionState
from generator_svc.engine.sequence import FinishReason, Sequence
from generator_svc.engine.step_model import StepModel
from svc_common.errors import DeadlineExceededError, RewardUnavailableError, ShuttingDownError
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
        run_ahead: RunAhead,
    ) -> None:
        self._model = model
        self._thread = thread
        self._scheduler = scheduler
        self._scorer = scorer
        self._observer = observer
        self._wake = asyncio.Event()
        self._deadlines = Deadlines(self._leave_queue)
        self._chooser = Chooser(scorer, observer)
        self._run_ahead = run_ahead
        self._num_steps = 0
        # Tokens that were chosen and not yet handed to their readers.
        self._accepted: list[tuple[Chosen, FinishReason | None]] = []

    @property
    def scheduler(self) -> Scheduler:
        """Where room in the queue is kept, before a sequence is submitted."""
        return self._scheduler

    def submit(self, sequence: Sequence, place: Place | None = None) -> None:
        """Queue a sequence; its tokens come from `sequence.tokens()`.

        Raises:
            RefusedError: no place is kept for it, and the queue is full.
        """
        self._scheduler.add(sequence, place)
        self._deadlines.watch(sequence)
        self._wake.set()

    def cancel(self, sequence: Sequence) -> None:
        """Mark a sequence nobody reads any more; its slot is free after the running step."""
        sequence.is_cancelled = True
        self._leave_queue(sequence)

    def _leave_queue(self, sequence: Sequence) -> None:
        """End a cancelled or expired sequence at once if it waits, else after the running step."""
        if sequence.left_in_step is None:
            sequence.left_in_step = self._num_steps
        if self._scheduler.is_waiting(sequence):
            self._end_unwanted(sequence)
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
            self._settle()
            for sequence in self._scheduler.everyone:
                self._end(sequence, error)

    async def _step(self) -> None:
        """Advance both models, propose, score, choose, emit; or wait while nothing can be done."""
        self._wake.clear()
        self._num_steps += 1
        self._sweep()
        self._admit()
        batch = self._scheduler.next_batch()
        if batch.is_empty:
            self._settle()
        else:
            await self._forward(batch)
        ready = [s for s in self._scheduler.active if self._can_choose(s)]
        if ready:
            await self._choose(ready)
        if batch.is_empty and not ready:
            await self._wake.wait()

    def _sweep(self) -> None:
        """End what nobody waits for, and answers that can get no rewards and want none else."""
        for sequence in self._scheduler.active:  # what waits leaves by itself
            if sequence.is_cancelled or sequence.is_expired:
                self._end_unwanted(sequence)
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
        lost = sequence.session
        sequence.session = RewardSession(
            sequence.params.reward_context, sequence.token_ids, self._wake.set, sequence
        )
        if lost is not None:  # it goes on with the reward model it began with, if it can
            sequence.session.model_version = lost.model_version
        self._scorer.open(sequence.session)

    async def _forward(self, batch: Batch) -> None:
        """Commit the last tokens at the reward service and run them ourselves, both at once.

        What the last step left to do is done meanwhile.
        """
        sessions = [s.session for s in batch.decodes if s.session is not None]
        self._scorer.commit([s for s in sessions if s.state is SessionState.OPEN])
        await asyncio.sleep(0)  # the commit leaves before our forward takes the interpreter
        started = time.perf_counter()
        running = self._thread.start(self._model.run, batch)
        self._settle()
        await running
        seconds = time.perf_counter() - started
        for sequence in batch.decodes:
            sequence.timings.generator_forward_s += seconds
        for read in batch.reads:
            if read.is_first:
                read.sequence.timings.queue_s = started - read.sequence.arrived_at
                self._observer.started(read.sequence)
            read.sequence.timings.prefill_s += seconds
        if batch.reads:
            self._observer.phase("generator_prefill", seconds)
        self._scheduler.rate.note_step(seconds)
        if batch.decodes:
            self._run_ahead.note_forward(seconds)
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
        """Give each of `ready` its next token, and run on with guesses meanwhile if that pays."""
        proposal = Proposal(ready)
        if all(proposal.is_scored) and self._run_ahead.pays(len(ready)):
            await self._choose_ahead(proposal)
            return
        started = time.perf_counter()
        chosen = await self._chooser.choose(proposal)
        self._accept(chosen, time.perf_counter() - started)

    async def _choose_ahead(self, proposal: Proposal) -> None:
        """Choose, while the base's own choices run: here, and in the sessions of their rewards."""
        guesses = proposal.guesses(self._model.context_length)
        pairs = zip(proposal.sequences, guesses, strict=True)
        guessed = {sequence: guess for sequence, guess in pairs if guess is not None}
        started = time.perf_counter()
        choosing = asyncio.ensure_future(self._chooser.choose(proposal, guesses))
        try:
            # It asks, and then the question leaves, before our forward takes the interpreter.
            for _ in range(2):
                await asyncio.sleep(0)
            running = self._start_ahead(guessed) if guessed else None
            chosen = await choosing
        finally:
            choosing.cancel()  # if the engine stops
        self._accept(chosen, time.perf_counter() - started)
        self._settle()
        if running is None:
            return
        outlasts_rewards = not running.done()
        block = await running
        seconds = time.perf_counter() - started
        if outlasts_rewards:  # else nobody saw when it ended
            self._run_ahead.note_forward(seconds)
        self._observer.phase("generator_forward", seconds)
        self._observer.batch(len(guessed))
        self._settle_guesses(guessed, {one.sequence for one in chosen}, block)

    def _settle_guesses(
        self, guessed: dict[Sequence, int], answered: set[Sequence], block: Candidates
    ) -> None:
        """Keep the candidates behind right guesses, and take wrong ones back here and there.

        Args:
            guessed: the guess of each row of `block`.
            answered: sequences that got their token; the others wait for new rewards.
            block: candidates `[B, K]` that follow the guesses.
        """
        wrong = []
        for row, (sequence, guess) in enumerate(guessed.items()):
            is_right = sequence in answered and sequence.token_ids[-1] == guess
            if sequence.session is not None:
                confirmed = len(sequence.token_ids) - (sequence in answered and not is_right)
                committed = sequence.session.num_committed
                sequence.session.num_committed = min(committed, confirmed)
            if is_right and sequence.row is not None:
                sequence.candidates = CandidateRow(block, row, sequence.params.top_k)
            else:
                wrong.append(sequence)
        self._model.take_back(wrong)
        self._observer.ran_ahead(num_kept=len(guessed) - len(wrong), num_redone=len(wrong))

    def _start_ahead(self, guessed: dict[Sequence, int]) -> asyncio.Future[Candidates]:
        """Begin to run guesses, on the rows of now: an answer that ends meanwhile has none."""
        rows = [s.row for s in guessed if s.row is not None]
        widest = max(s.params.top_k for s in guessed)
        return self._thread.start(self._model.decode, rows, list(guessed.values()), widest)

    def _accept(self, chosen: list[Chosen], wait_s: float) -> None:
        """Append the tokens to their answers, and end the answers that are complete."""
        guided = [one for one in chosen if one.is_guided]
        if guided:
            kept = sum(o.choices.columns[o.row] == o.choices.base_columns[o.row] for o in guided)
            self._run_ahead.note_step(wait_s, kept, len(guided), self._scorer.times)
        for one in chosen:
            if one.is_guided:
                one.sequence.note_reward_model()
            reason = one.sequence.append(one.token_id, self._model.context_length)
            self._accepted.append((one, reason))
            if reason is not None:
                self._end(one.sequence)

    def _settle(self) -> None:
        """Do what no step waits for: tokens go to their readers, what was measured is counted."""
        self._emit()
        self._observer.load(
            num_active=self._scheduler.num_active,
            num_waiting=self._scheduler.num_waiting,
            num_free_slots=self._model.num_free,
        )
        self._observer.settle()

    def _emit(self) -> None:
        """Hand the tokens that were chosen last to their readers."""
        if not self._accepted:
            return
        started = time.perf_counter()
        accepted, self._accepted = self._accepted, []
        for one, reason in accepted:
            sequence = one.sequence
            previous = sequence.last_token_at
            token = sequence.emit(
                one.choices,
                one.row,
                reason,
                is_guided=one.is_guided,
                explanation=one.explanation(),
            )
            since = sequence.last_token_at - previous if previous else None
            self._observer.token(token, sequence, since)
        self._observer.phase("emit", time.perf_counter() - started)

    def _end_unwanted(self, sequence: Sequence) -> None:
        """Take out a sequence that nobody reads any more, or not in time."""
        left = self._num_steps if sequence.left_in_step is None else sequence.left_in_step
        self._observer.left(sequence.phase, self._num_steps - left)
        late = DeadlineExceededError("deadline: passed before the answer was complete")
        self._end(sequence, None if sequence.is_cancelled else late)

    def _end(self, sequence: Sequence, error: Exception | None = None) -> None:
        """Take a sequence out; tell its reader why if it did not end by itself."""
        self._scheduler.remove(sequence)
        self._deadlines.forget(sequence)
        if sequence.session is not None:
            self._scorer.close(sequence.session)
        if error is not None:
            sequence.fail(error)
