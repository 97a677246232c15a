"""One reward replica: the sessions that live on it, and what it owes them."""

import asyncio
import logging
import time
from itertools import count

import torch

from generator_svc.decoding.strategies import Reference
from generator_svc.engine.scorer import RewardSession, ScoredRows
from generator_svc.reward_client.breaker import Breaker, Circuit
from generator_svc.reward_client.connection import Connection
from generator_svc.reward_client.connector import Connector, Metadata
from generator_svc.reward_client.events import ReplicaEvents
from generator_svc.reward_client.owed import OnAnswer, Question, judge
from generator_svc.reward_client.patience import Patience
from generator_svc.reward_client.placement import Placement, take_guesses, take_missing
from generator_svc.reward_client.wire import (
    CandidateBlock,
    pack_candidates,
    pack_commits,
    pack_context,
    pack_trace,
)
from pad.v1 import reward_pb2, reward_pb2_grpc
from svc_common.array_fields import pack
from svc_common.fault_points import FaultPoints

logger = logging.getLogger(__name__)

MAX_NUMBER = 1 << 32  # session numbers are uint32


class Replica:
    """Carries the messages of all sessions on a replica; implements `ConnectionEvents`.

    Attributes:
        breaker: counts what it did wrong.
        patience: knows how long it usually takes.
        heard_at: when it last sent something, by `time.monotonic`.
    """

    def __init__(
        self,
        address: str,
        tokenizer_fingerprint: str,
        events: ReplicaEvents,
        *,
        connector: Connector | None = None,
        base_fingerprint: str = "",
        faults: FaultPoints | None = None,
    ) -> None:
        self.address = address
        self.model_version = ""
        self.has_vectors = False  # whether it reads preferences as vectors, alone or too
        self.num_free_slots = 0
        self.refusal = ""  # why the replica can never serve this generator
        self.breaker = Breaker(self._circuit_changed)
        self.patience = Patience()
        self.heard_at = 0.0
        self.connection = Connection(
            address, self, connector or Connector(), faults or FaultPoints()
        )
        self._takes_sessions = False
        self._shares_rows = False  # all preferences of a session take one row
        self._shares_reference = False  # its reference is our base model
        self._fingerprint = tokenizer_fingerprint
        self._base_fingerprint = base_fingerprint
        self._events = events
        self._placements: dict[int, Placement] = {}
        self._pending: dict[int, Question] = {}
        self._numbers = count(1)  # of sessions
        self._batch_ids = count(1)

    @property
    def is_available(self) -> bool:
        """Whether a session can be opened on it now."""
        return self._takes_sessions and self.breaker.allows

    @property
    def is_reached(self) -> bool:
        """Whether it can be asked, be it suspended or about to stop."""
        return self.connection.is_reached

    @property
    def is_suspended(self) -> bool:
        """Whether it is left alone because it failed several times."""
        return self.breaker.circuit is not Circuit.CLOSED

    @property
    def stub(self) -> "reward_pb2_grpc.RewardServiceAsyncStub":
        """For unary calls; only while the replica is reached, as an available one is."""
        return self.connection.stub

    @property
    def metadata(self) -> Metadata:
        """What every call to the replica must carry."""
        return self.connection.metadata

    async def run(self) -> None:
        """Stay connected until cancelled."""
        await self.connection.run()

    def open(self, session: RewardSession, epoch: int) -> Placement:
        """Send a session's prefix; `session_opened` or `session_failed` follows.

        A reference that is the base model itself gets no row there: its log-probabilities are the
        candidates' own.
        """
        context = session.context
        has_reference = context.reference is Reference.BACKBONE
        is_ours = has_reference and self._shares_reference and context.is_base_prompt
        placement = Placement(
            session,
            next(self._numbers) % MAX_NUMBER,
            epoch,
            base_weight=context.total_weight if is_ours else 0.0,
        )
        self._placements[placement.number] = placement
        session.num_committed = len(session.token_ids)
        message = reward_pb2.ScoreRequest()
        message.opens.add(
            session=placement.number,
            epoch=epoch,
            context=pack_context(
                context, self.model_version, Reference.BASE if is_ours else context.reference
            ),
            token_ids=pack(session.token_ids),
            tokenizer_fingerprint=self._fingerprint,
            wants_preference_rewards=context.is_explained,
            trace=pack_trace(context.trace),
        )
        num_preferences = len(context.preferences)
        self.num_free_slots -= (1 if self._shares_rows else num_preferences) + (
            has_reference and not is_ours
        )
        self.breaker.note_placed()
        self.connection.send(message)
        return placement

    def close(self, placement: Placement) -> None:
        """Give a session's place back."""
        if self._placements.pop(placement.number, None) is not None:
            self.connection.send(reward_pb2.ScoreRequest(closes=[placement.number]))

    def _forget(self, placement: Placement) -> None:
        """Forget a session that failed; one that had been open may hold its rows there still."""
        if placement.is_open:
            self.close(placement)
        else:
            self._placements.pop(placement.number, None)

    def commit(self, placements: list[Placement]) -> None:
        """Send the tokens that each session's replica does not have yet: usually the last one.

        A session whose `num_committed` was set back is taken back to that many tokens.
        """
        rows = take_missing(placements)
        if rows:
            self.connection.send(reward_pb2.ScoreRequest(commits=pack_commits(rows)))

    def ask(
        self,
        placements: list[Placement],
        candidates: CandidateBlock,
        on_answer: OnAnswer,
        timeout_s: float,
    ) -> None:
        """Ask for the rewards of candidates; `on_answer` is called once.

        A guess goes along, to be run as soon as the rewards are on their way: the session then
        counts it as committed. A replica that does not answer in time is given up.
        """
        keys = [(p.number, p.epoch, len(p.session.token_ids)) for p in placements]
        request = reward_pb2.ScoreRequest(
            candidates=pack_candidates(keys, candidates),
            batch_id=next(self._batch_ids),
        )
        missing = take_missing(placements)  # a session may have moved in between
        if missing:
            request.commits.CopyFrom(pack_commits(missing))
        if candidates.guesses is not None:
            guessed = take_guesses(placements, candidates.guesses)
            request.tentative_commits.CopyFrom(pack_commits(guessed))
        timer = asyncio.get_running_loop().call_later(timeout_s, self._give_up)
        now = time.monotonic()
        counts = candidates.counts
        question = Question(request.candidates, placements, counts, on_answer, timer, now)
        self._pending[request.batch_id] = question
        self.connection.send(request)

    def note_hanging(self, since: float) -> None:
        """Count it against the replica, once, that it sent nothing at all since then."""
        if self.heard_at < since and self.breaker.last_failure < since:
            self.breaker.note_failure()

    def _give_up(self) -> None:
        logger.warning("reward step timed out", extra={"address": self.address})
        self.breaker.note_failure()
        self.connection.give_up()
        self.disconnected()

    # -- connection.ConnectionEvents --------------------------------------------------------------

    def connected(self, info: reward_pb2.RewardServiceGetServerInfoResponse) -> None:
        """Note what the replica serves.

        Raises:
            ValueError: its tokenizer is another than the generator's.
        """
        self.model_version = info.model_version
        self.num_free_slots = info.load.num_free_slots
        self.has_vectors = reward_pb2.CONDITIONING_VECTOR in info.conditionings
        self._shares_rows = list(info.conditionings) == [reward_pb2.CONDITIONING_VECTOR]
        self._shares_reference = bool(self._base_fingerprint) and (
            info.reference_fingerprint == self._base_fingerprint
        )
        self.refusal = ""
        if info.tokenizer_fingerprint != self._fingerprint:
            self.refusal = (
                f"tokenizer: reward model {info.model_id} on {self.address} must use the base"
                f" model's ({self._fingerprint}), has {info.tokenizer_fingerprint}"
            )
            raise ValueError(self.refusal)

    def health_changed(self, *, is_serving: bool) -> None:
        if is_serving:
            self._takes_sessions = True
            self._events.replica_ready(self)
        elif self._takes_sessions:  # it drains: what runs may end, nothing new is opened
            self._takes_sessions = False
            self._events.replica_draining(self, list(self._placements.values()))

    def receive(self, response: reward_pb2.ScoreResponse) -> None:
        """Take one message apart.

        Raises:
            ValueError: it does not fit the protocol.
        """
        self.heard_at = time.monotonic()
        if response.HasField("load"):
            self.num_free_slots = response.load.num_free_slots
        for opened in response.opened:
            placement = self._placements.get(opened.session)
            if placement is not None and placement.epoch == opened.epoch:
                placement.is_open = True
                self._events.session_opened(self, placement, opened)
        question = self._pending.get(response.batch_id)
        scored = None
        if question is not None:
            try:
                scored = question.read(response.rewards)
            except ValueError:
                self.breaker.note_failure()
                raise
        if scored is not None:
            judge(response, scored.has_rewards, self.breaker)
        for error in response.row_errors:
            placement = self._placements.get(error.session)
            if placement is not None and placement.epoch == error.epoch:
                self._forget(placement)
                self._events.session_failed(self, placement, error)
        if question is not None and scored is not None:
            del self._pending[response.batch_id]
            self._events.batch_timed(response.timings)
            self.patience.note(self.heard_at - question.asked_at)
            question.answer(scored)

    def disconnected(self) -> None:
        """Tell everyone who waits for this replica that nothing will come."""
        was_there, self._takes_sessions = self._takes_sessions, False
        placements, self._placements = list(self._placements.values()), {}
        questions, self._pending = list(self._pending.values()), {}
        for question in questions:
            counts = question.counts
            nothing = torch.zeros(len(counts), max(counts))
            question.answer(ScoredRows(nothing, [False] * len(counts)))
        if was_there or placements:
            self._events.replica_lost(self, placements)

    def _circuit_changed(self, circuit: Circuit) -> None:
        logger.warning(
            "reward replica suspended" if circuit is Circuit.OPEN else "reward replica well again",
            extra={"address": self.address},
        )
        self._events.circuit_changed(self, circuit)
