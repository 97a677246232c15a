"""The pool of reward replicas: placement, one message a step, and every way to lose a replica."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from generator_svc.decoding.candidates import Candidates
from generator_svc.decoding.strategies import Reference
from generator_svc.engine.scorer import (
    EncodedPreference,
    RewardContext,
    RewardSession,
    ScoreRows,
    SessionState,
)
from generator_svc.reward_client.calls import RewardCalls
from generator_svc.reward_client.connection import Connection
from generator_svc.reward_client.limits import PoolLimits
from generator_svc.reward_client.pool import RewardPool
from pad.v1 import reward_pb2
from svc_common.errors import (
    InvalidRequestError,
    ModelMismatchError,
    OverloadedError,
    RewardUnavailableError,
)
from svc_common.preference_prompt import ChatMessage
from tests.generator_svc.fake_replica import FINGERPRINT, FakeReplica, running_replica

CONTEXT = RewardContext(
    (ChatMessage("user", "hi"),), (EncodedPreference("be brief", 1.0),), Reference.BACKBONE
)
LIMITS = PoolLimits(step_timeout_s=0.5, open_timeout_s=1.5, resolve_interval_s=0.2)
IDS = torch.tensor([5, 6, 7])
LOGPROBS = torch.tensor([-0.5, -1.5, -2.5])


@dataclass
class Listener:
    failovers: int = 0
    circuits: list[str] = field(default_factory=list)
    num_model_changes: int = 0
    batches: list[float] = field(default_factory=list)

    def failover(self) -> None:
        self.failovers += 1

    def circuit_changed(self, state: str) -> None:
        self.circuits.append(state)

    def reward_model_changed(self) -> None:
        self.num_model_changes += 1

    def replica_batch(self, queue_s: float, forward_s: float, select_s: float) -> None:
        self.batches.append(forward_s)


@dataclass
class Harness:
    pool: RewardPool
    replicas: list[FakeReplica]
    listener: Listener
    changed: asyncio.Event

    @property
    def calls(self) -> RewardCalls:
        return RewardCalls(self.pool.fleet, FINGERPRINT)

    def session(self, *token_ids: int, context: RewardContext = CONTEXT) -> RewardSession:
        session = RewardSession(context, list(token_ids), self.changed.set)
        self.pool.open(session)
        return session

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.changed.wait(), 0.05)

    async def ready(self, num_replicas: int) -> None:
        fleet = self.pool.fleet
        await self.until(lambda: sum(r.is_available for r in fleet.replicas) == num_replicas)

    async def open(self, *token_ids: int, context: RewardContext = CONTEXT) -> RewardSession:
        session = self.session(*token_ids, context=context)
        await self.until(lambda: session.state is not SessionState.OPENING)
        return session

    async def score(self, *sessions: RewardSession) -> list[Tensor | None]:
        """Return the rewards `[K]` of IDS for each session that got some."""
        ids, counts = IDS.expand(len(sessions), -1), [len(IDS)] * len(sessions)
        candidates = Candidates(ids, LOGPROBS.expand(len(sessions), -1))
        scored = await self.pool.score(ScoreRows(list(sessions), candidates, counts))
        pairs = zip(scored.rewards, scored.has_rewards, strict=True)
        return [rewards if has_rewards else None for rewards, has_rewards in pairs]

    async def reward(self, session: RewardSession) -> float | None:
        (rewards,) = await self.score(session)
        if session.is_scoring:
            await self.until(lambda: not session.is_scoring)
            if session.state is SessionState.OPEN:
                (rewards,) = await self.score(session)
        return None if rewards is None else float(rewards[0])


@asynccontextmanager
async def running_pool(
    *replicas: FakeReplica, extra: tuple[str, ...] = (), base_fingerprint: str = ""
) -> AsyncIterator[Harness]:
    async with AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(running_replica(r)) for r in replicas]
        targets = tuple(f"127.0.0.1:{port}" for port in ports) + extra
        listener = Listener()
        pool = RewardPool(targets, FINGERPRINT, LIMITS, listener, base_fingerprint=base_fingerprint)
        task = asyncio.create_task(pool.run())
        try:
            yield Harness(pool, list(replicas), listener, asyncio.Event())
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_a_session_is_opened_committed_and_scored_in_order() -> None:
    async with running_pool(FakeReplica()) as harness:
        session = await harness.open()
        assert await harness.reward(session) == 0
        session.token_ids.append(9)
        harness.pool.commit([session])
        assert await harness.reward(session) == 1
        harness.pool.close(session)
        await harness.until(lambda: not harness.replicas[0].committed)
        assert harness.replicas[0].log == ["open 0", "score 1", "commit 1", "score 1", "close"]
        assert harness.pool.num_sessions == 0


async def test_all_rows_of_a_step_travel_in_one_message_a_replica() -> None:
    async with running_pool(FakeReplica()) as harness:
        sessions = [await harness.open() for _ in range(5)]
        harness.replicas[0].log.clear()
        for session in sessions:
            session.token_ids.append(1)
        harness.pool.commit(sessions)
        rewards = await harness.score(*sessions)
        assert [float(r[0]) for r in rewards if r is not None] == [1.0] * 5
        assert harness.replicas[0].log == ["commit 5", "score 5"]


async def test_sessions_spread_over_replicas() -> None:
    async with running_pool(FakeReplica(), FakeReplica()) as harness:
        await harness.ready(2)
        for _ in range(8):
            await harness.open()
        assert all(len(replica.committed) >= 2 for replica in harness.replicas)


async def test_a_session_whose_replica_hangs_up_goes_on_elsewhere_with_its_tokens() -> None:
    async with running_pool(FakeReplica(), FakeReplica()) as harness:
        await harness.ready(2)
        session = await harness.open(1, 2, 3)
        (home,) = [replica for replica in harness.replicas if replica.committed]
        home.hang_up.set()
        await harness.until(lambda: harness.listener.failovers == 1)
        await harness.until(lambda: session.state is SessionState.OPEN)
        assert await harness.reward(session) == 3


async def test_a_replica_that_owes_rewards_too_long_is_given_up() -> None:
    async with running_pool(FakeReplica()) as harness:
        session = await harness.open(4)
        harness.replicas[0].is_silent = True
        assert await harness.reward(session) is None
        harness.replicas[0].is_silent = False
        await harness.until(lambda: session.state is SessionState.OPEN)
        assert await harness.reward(session) == 1
        assert harness.replicas[0].num_streams == 2


async def test_rewards_of_another_step_are_never_applied() -> None:
    async with running_pool(FakeReplica()) as harness:
        session = await harness.open()
        harness.replicas[0].shifts_steps = 1
        assert await harness.reward(session) is None
        assert session.state is SessionState.OPENING  # not asked again and again
        harness.replicas[0].shifts_steps = 0
        await harness.until(lambda: session.state is SessionState.OPEN)
        assert await harness.reward(session) == 0


async def test_a_row_error_opens_the_session_again_and_gives_up_in_the_end() -> None:
    async with running_pool(FakeReplica()) as harness:
        harness.replicas[0].refuses_opens = reward_pb2.ROW_ERROR_REASON_INTERNAL
        session = await harness.open()
        assert session.state is SessionState.FAILED
        assert isinstance(session.error, RewardUnavailableError)
        assert harness.replicas[0].log.count("open 0") == 5


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (reward_pb2.ROW_ERROR_REASON_INVALID, InvalidRequestError),
        (reward_pb2.ROW_ERROR_REASON_MODEL_MISMATCH, ModelMismatchError),
    ],
)
async def test_what_can_never_succeed_fails_at_once_with_its_reason(
    reason: int, error: type[Exception]
) -> None:
    async with running_pool(FakeReplica()) as harness:
        harness.replicas[0].refuses_opens = reason
        session = await harness.open()
        assert isinstance(session.error, error)
        assert "must be shorter" in str(session.error)
        assert len(harness.replicas[0].log) == 1


async def test_a_full_replica_sends_sessions_to_one_with_room_or_fails_as_overloaded() -> None:
    full = FakeReplica()
    full.refuses_opens = reward_pb2.ROW_ERROR_REASON_NO_FREE_SLOTS
    async with running_pool(full, FakeReplica()) as harness:
        await harness.ready(2)
        for _ in range(6):
            assert (await harness.open()).state is SessionState.OPEN
        harness.replicas[1].refuses_opens = reward_pb2.ROW_ERROR_REASON_NO_FREE_SLOTS
        session = await harness.open()
        assert isinstance(session.error, OverloadedError)


async def test_another_tokenizer_is_refused_by_name() -> None:
    other = FakeReplica()
    other.fingerprint = "another"
    async with running_pool(other) as harness:
        session = await harness.open()
        assert isinstance(session.error, ModelMismatchError)
        assert "another" in str(session.error)


async def test_without_replicas_sessions_fail_in_time_and_a_new_replica_is_found() -> None:
    async with running_pool(extra=("no-such-host.invalid:1",)) as harness:
        session = await harness.open()
        assert isinstance(session.error, RewardUnavailableError)
        assert session.error.retry_after_s
        # Nobody waits again for what has been away that long.
        assert harness.session().state is SessionState.FAILED
        with pytest.raises(RewardUnavailableError):
            await harness.calls.encode_preference("x", b"", 100)
    replica = FakeReplica()
    async with running_replica(replica) as port:
        pass  # now a port that is free, most likely
    async with running_pool(extra=(f"127.0.0.1:{port}",)) as harness:
        session = harness.session()
        async with running_replica(replica, port):
            await harness.until(lambda: session.state is SessionState.OPEN)
            assert await harness.calls.encode_preference("x", b"", 1.0) == ("v1", b"enc")


async def test_statuses_of_unary_calls_become_our_errors() -> None:
    async with running_pool(FakeReplica()) as harness:
        await harness.open()
        with pytest.raises(InvalidRequestError, match="too long"):
            await harness.calls.score_sequences(CONTEXT, [[1]], 1.0)


async def test_a_late_replica_does_not_hold_up_the_others() -> None:
    async with running_pool(FakeReplica(), FakeReplica()) as harness:
        await harness.ready(2)
        sessions = [await harness.open() for _ in range(8)]
        silent = harness.replicas[0]
        silent.is_silent = True
        num_late = len(silent.committed)
        assert 0 < num_late < 8
        rewards = await harness.score(*sessions)
        assert sum(reward is None for reward in rewards) == num_late
        assert [s.is_scoring for s in sessions] == [reward is None for reward in rewards]
        await harness.until(lambda: not any(session.is_scoring for session in sessions))
        silent.is_silent = False
        await harness.until(lambda: all(s.state is SessionState.OPEN for s in sessions))


async def test_rewards_that_came_late_are_kept_until_they_are_asked_for() -> None:
    async with running_pool(FakeReplica()) as harness:
        session = await harness.open(1, 2)
        replica = harness.pool.fleet.replicas[0]
        receive, kept = replica.receive, []
        replica.receive = kept.append  # type: ignore[method-assign, assignment]
        assert await harness.score(session) == [None]
        assert session.is_scoring
        receive(*kept)
        await harness.until(lambda: not session.is_scoring)
        (rewards,) = await harness.score(session)
        assert rewards is not None
        assert harness.replicas[0].log.count("score 1") == 1


async def test_a_session_that_moved_between_two_steps_is_scored_for_its_whole_prefix() -> None:
    """Once a token was chosen while its session was being moved, and never reached the new home."""
    async with running_pool(FakeReplica(), FakeReplica()) as harness:
        await harness.ready(2)
        session = await harness.open()
        for num_tokens in range(1, 6):
            (home,) = [replica for replica in harness.replicas if replica.committed]
            home.hang_up.set()
            await harness.until(lambda: session.state is SessionState.OPENING)
            session.token_ids.append(num_tokens)
            await harness.until(lambda: session.state is SessionState.OPEN)
            assert await harness.reward(session) == num_tokens
            home.committed.clear()
            await harness.ready(2)


async def test_a_replica_comes_back_after_a_write_to_a_stream_that_had_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once the error that gRPC raises then killed the replica's task for good."""
    write, errors = Connection._write, [asyncio.InvalidStateError("RPC already finished.")]

    async def failing_once(connection: Connection, stream: Any) -> None:
        if errors:
            raise errors.pop()
        await write(connection, stream)

    monkeypatch.setattr(Connection, "_write", failing_once)
    async with running_pool(FakeReplica()) as harness:
        assert await harness.reward(await harness.open()) == 0
        assert not errors


async def test_a_replica_that_does_not_open_sessions_is_passed_over() -> None:
    hanging = FakeReplica()
    hanging.ignores_opens = True
    async with running_pool(hanging, FakeReplica()) as harness:
        await harness.ready(2)
        sessions = [harness.session() for _ in range(6)]
        await harness.until(lambda: all(s.state is not SessionState.OPENING for s in sessions))
        assert all(session.state is SessionState.OPEN for session in sessions)
        assert any(entry.startswith("open") for entry in hanging.log)


async def test_a_draining_replica_finishes_its_sessions_where_there_is_no_other() -> None:
    async with running_pool(FakeReplica()) as harness:
        session = await harness.open()
        harness.replicas[0].health.set_serving(False)
        await harness.until(lambda: not harness.pool.is_available)
        session.token_ids.append(1)
        harness.pool.commit([session])
        assert await harness.reward(session) == 1
        assert session.state is SessionState.OPEN


async def test_a_draining_replica_hands_its_sessions_to_another() -> None:
    async with running_pool(FakeReplica(), FakeReplica()) as harness:
        await harness.ready(2)
        session = await harness.open(5)
        home = next(replica for replica in harness.replicas if replica.committed)
        other = next(replica for replica in harness.replicas if replica is not home)
        home.health.set_serving(False)
        await harness.until(lambda: bool(other.committed) and not home.committed)
        await harness.until(lambda: session.state is SessionState.OPEN)
        assert await harness.reward(session) == 1


async def test_an_answer_with_too_few_rewards_is_not_used() -> None:
    async with running_pool(FakeReplica()) as harness:
        session = await harness.open()
        harness.replicas[0].cuts_rewards = True
        assert await harness.reward(session) is None
        assert session.state is SessionState.OPENING
