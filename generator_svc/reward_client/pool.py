"""Sessions on the reward replicas: placement, failover, time limits.

A session is a cache that can be rebuilt anywhere: whatever happens to its replica, it is opened
again with the tokens written so far, and the answer goes on with the same candidates.
"""

import asyncio
import time
from functools import partial

from generator_svc.engine.scorer import (
    RewardSession,
    RewardTimes,
    ScoredRows,
    ScoreRows,
    SessionState,
)
from generator_svc.reward_client.breaker import Circuit
from generator_svc.reward_client.case import Case
from generator_svc.reward_client.connector import Connector
from generator_svc.reward_client.fleet import Fleet
from generator_svc.reward_client.limits import PoolLimits, PoolObserver
from generator_svc.reward_client.placement import Placement
from generator_svc.reward_client.questions import Questions
from generator_svc.reward_client.replica import Replica
from pad.v1 import reward_pb2
from svc_common.errors import (
    InvalidRequestError,
    ModelMismatchError,
    OverloadedError,
    RewardUnavailableError,
    ServiceError,
)
from svc_common.fault_points import FaultPoints

FULL_RETRY_S = 0.5  # between two tries to find room
FULL_PATIENCE = 4  # times the opening limit that a session waits for room
MAX_FAILURES = 5  # of one session without a reward in between: something is wrong with it
_FATAL = {
    reward_pb2.ROW_ERROR_REASON_INVALID: InvalidRequestError,
    reward_pb2.ROW_ERROR_REASON_MODEL_MISMATCH: ModelMismatchError,
}


class RewardPool:
    """Implements `engine.scorer.RewardScorer` and `reward_client.events.ReplicaEvents`."""

    def __init__(
        self,
        targets: tuple[str, ...],
        tokenizer_fingerprint: str,
        limits: PoolLimits,
        observer: PoolObserver,
        *,
        connector: Connector | None = None,
        base_fingerprint: str = "",
        faults: FaultPoints | None = None,
    ) -> None:
        """Make a pool; see `Fleet` for what the fingerprints decide."""
        self._limits = limits
        self._observer = observer
        self._cases: dict[RewardSession, Case] = {}
        self.times = RewardTimes()
        self.fleet = Fleet(
            targets,
            tokenizer_fingerprint,
            self,
            base_fingerprint=base_fingerprint,
            resolve_interval_s=limits.resolve_interval_s,
            patience_s=limits.open_timeout_s,
            connector=connector,
            faults=faults,
        )
        step_limit_s = partial(self.fleet.step_limit_s, full_s=limits.step_timeout_s)
        self._questions = Questions(step_limit_s, self._move)

    @property
    def is_available(self) -> bool:
        return self.fleet.is_available

    @property
    def num_sessions(self) -> int:
        return len(self._cases)

    async def run(self) -> None:
        """Keep replicas connected and openings in time, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.fleet.run())
            group.create_task(self._expire_forever())

    # -- engine.scorer.RewardScorer ------------------------------------------------------------

    def open(self, session: RewardSession) -> None:
        """Begin to open a session."""
        now = time.monotonic()
        case = Case(session, started=now, deadline=now + self._limits.open_timeout_s)
        self._cases[session] = case
        if self.fleet.is_long_gone:
            self._fail(session, self.fleet.unavailable())
        else:
            self._place(case)

    def commit(self, sessions: list[RewardSession]) -> None:
        """Send the tokens that the sessions' replicas do not have, one message a replica."""
        groups: dict[Replica, list[Placement]] = {}
        for session in sessions:
            case = self._cases.get(session)
            if case is not None and case.replica is not None and case.placement is not None:
                groups.setdefault(case.replica, []).append(case.placement)
        for replica, placements in groups.items():
            replica.commit(placements)

    def score(self, rows: ScoreRows) -> "asyncio.Future[ScoredRows]":
        """Ask each replica for the rewards of its sessions, one message a replica.

        A late replica's rewards are kept until they are asked for again.
        """
        return self._questions.ask(rows, [self._cases.get(s) for s in rows.sessions])

    def close(self, session: RewardSession) -> None:
        """End a session, whatever its state."""
        session.state = SessionState.CLOSED
        case = self._cases.pop(session, None)
        if case is not None:
            case.leave()

    # -- reward_client.events.ReplicaEvents -----------------------------------------------------

    def replica_ready(self, _replica: Replica) -> None:
        self.fleet.note_ready()
        for case in list(self._cases.values()):
            case.avoid.clear()
            if case.placement is None and case.session.state is SessionState.OPENING:
                self._place(case)

    def replica_lost(self, _replica: Replica, placements: list[Placement]) -> None:
        self.fleet.note_lost()
        self._move_all(placements)

    def replica_draining(self, replica: Replica, placements: list[Placement]) -> None:
        """Move its sessions if there is somewhere to go; else they end where they are."""
        if self.fleet.choose({replica.address}, replica.model_version) is not None:
            self._move_all(placements, is_failure=False)

    def circuit_changed(self, replica: Replica, circuit: Circuit) -> None:
        self._observer.circuit_changed(circuit.value)
        if circuit is Circuit.CLOSED:
            self.replica_ready(replica)
        else:
            self.fleet.note_lost()

    def session_opened(
        self, replica: Replica, placement: Placement, opened: reward_pb2.SessionOpened
    ) -> None:
        session = placement.session
        session.max_answer_tokens = opened.max_answer_tokens
        if not session.model_version:
            session.model_version = replica.model_version
        elif session.model_version != replica.model_version:
            self._observer.reward_model_changed()
        self._set_state(session, SessionState.OPEN)

    def session_failed(
        self, replica: Replica, placement: Placement, error: reward_pb2.RowError
    ) -> None:
        fatal = _FATAL.get(error.reason)
        if fatal is not None:
            self._fail(placement.session, fatal(error.message))
            return
        case = self._cases.get(placement.session)
        if case is None:
            return
        is_full = error.reason == reward_pb2.ROW_ERROR_REASON_NO_FREE_SLOTS
        if is_full:
            self._note_full(replica, case)
        self._move(case, is_failure=not is_full)

    def batch_timed(self, timings: reward_pb2.StepTimings) -> None:
        self.times = RewardTimes(timings.forward_s, timings.queue_s)
        self._observer.replica_batch(timings.queue_s, timings.forward_s, timings.select_s)

    # -- placement -------------------------------------------------------------------------------

    def _place(self, case: Case) -> None:
        """Open a session on a replica with room, or leave it until there is one."""
        replica = self._choose(case, case.avoid)
        if replica is None:
            return
        if case.num_failures >= MAX_FAILURES:
            lost = f"reward service: session was lost {case.num_failures} times, giving up"
            self._fail(case.session, RewardUnavailableError(lost))
            return
        case.epoch += 1
        case.placed = time.monotonic()
        case.replica = replica
        case.placement = replica.open(case.session, case.epoch)

    def _choose(self, case: Case, avoid: set[str]) -> Replica | None:
        """Return a replica for a session.

        Rewards of two models do not mix: an answer goes on with the model it began with. Only
        where that has been away for the time a step may take, it goes on with another; the summary
        says so.
        """
        version = case.session.model_version
        is_patient = time.monotonic() - case.started < self._limits.step_timeout_s
        for wanted in (version,) if is_patient else (version, ""):
            # Back to one that failed it only where there is no other.
            for passed_over in (avoid | {case.lost_at}, avoid):
                replica = self.fleet.choose(passed_over, wanted)
                if replica is not None:
                    return replica
        return None

    def _move_all(self, placements: list[Placement], *, is_failure: bool = True) -> None:
        for placement in placements:
            case = self._cases.get(placement.session)
            # One that was owed rewards has moved already, for the answer that never came.
            if case is not None and case.placement is placement:
                self._move(case, is_failure=is_failure)

    def _move(self, case: Case, *, is_failure: bool = True) -> None:
        """Take a session from its replica, if it still has one there, and find it another place.

        Too many failures without a reward in between give the session up.
        """
        if case.session.state is SessionState.OPEN:
            self._observer.failover()
            case.started = time.monotonic()
            case.deadline = case.started + self._limits.open_timeout_s
        case.num_failures += is_failure
        if is_failure and case.replica is not None:
            case.lost_at = case.replica.address
        case.leave()
        self._set_state(case.session, SessionState.OPENING)
        if time.monotonic() >= case.retry_at:
            self._place(case)

    def _note_full(self, replica: Replica, case: Case) -> None:
        """Look elsewhere, or wait for room: longer than for an answer, as someone will finish."""
        now, limit_s = time.monotonic(), self._limits.open_timeout_s
        case.was_full = True
        case.avoid.add(replica.address)
        if self._choose(case, case.avoid) is None:
            case.retry_at = now + FULL_RETRY_S
        case.deadline = min(now + limit_s, case.started + FULL_PATIENCE * limit_s)

    def _fail(self, session: RewardSession, error: ServiceError) -> None:
        self._cases.pop(session, None)
        session.error = error
        self._set_state(session, SessionState.FAILED)

    @staticmethod
    def _set_state(session: RewardSession, state: SessionState) -> None:
        session.state = state
        session.on_change()

    # -- time --------------------------------------------------------------------------------------

    async def _expire_forever(self) -> None:
        """Fail sessions that found no place in time; retry replicas that had no room."""
        while True:
            await asyncio.sleep(min(0.1, self._limits.open_timeout_s / 4))
            now = time.monotonic()
            if self.is_available:  # a breaker may let a probe through again
                self.fleet.note_ready()
            for case in list(self._cases.values()):
                if case.session.state is SessionState.OPENING:
                    self._watch_opening(case, now)

    def _watch_opening(self, case: Case, now: float) -> None:
        """Place, move or give up a session that is not open yet."""
        if now >= case.deadline:
            case.leave()
            is_full = case.was_full and self.is_available
            full = OverloadedError("reward service: all replicas are full")
            self._fail(case.session, full if is_full else self.fleet.unavailable())
        elif case.replica is None:
            if now >= case.retry_at:
                case.avoid.clear()
                self._place(case)
        elif now - case.placed > self._limits.open_timeout_s / 3:
            others = case.avoid | {case.replica.address}
            if self._choose(case, others) is not None:  # it hangs, or is slow: try another
                case.replica.note_hanging(since=case.placed)
                case.avoid = others
                self._move(case)
