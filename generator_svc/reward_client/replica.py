"""One reward replica: its channel, its one stream, and the sessions that live on it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import grpc
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from torch import Tensor

from generator_svc.decoding.strategies import Reference
from generator_svc.engine.scorer import RewardSession
from generator_svc.reward_client.connection import Connector, Metadata
from generator_svc.reward_client.placement import Placement, take_guesses, take_missing
from generator_svc.reward_client.wire import (
    CandidateBlock,
    pack_candidates,
    pack_commits,
    pack_context,
    pack_ids,
    unpack_rewards,
)
from pad.v1 import reward_pb2, reward_pb2_grpc

logger = logging.getLogger(__name__)

OnAnswer = Callable[[Tensor, list[bool]], None]
"""Told the rewards `[B, K]` of a question's rows, and which of them came."""
RECONNECT_S = (0.1, 2.0)  # first pause after a lost stream, and the longest
INFO_TIMEOUT_S = 2.0
MAX_NUMBER = 1 << 32  # session numbers are uint32


@dataclass(frozen=True)
class Question:
    """Candidates whose rewards a replica owes."""

    asked: reward_pb2.CandidateRows
    counts: list[int]
    on_answer: OnAnswer
    timer: asyncio.TimerHandle

    def answer(self, rewards: Tensor, came: list[bool]) -> None:
        """Tell who asked."""
        self.timer.cancel()
        self.on_answer(rewards, came)


class ReplicaEvents(Protocol):
    """What a replica tells the pool."""

    def replica_ready(self, replica: "Replica") -> None:
        """Sessions can be opened on it."""

    def replica_lost(self, replica: "Replica", placements: list[Placement]) -> None:
        """Its stream ended; these sessions have no place any more."""

    def replica_draining(self, replica: "Replica", placements: list[Placement]) -> None:
        """It will stop once these sessions have left."""

    def session_opened(
        self, replica: "Replica", placement: Placement, opened: reward_pb2.SessionOpened
    ) -> None:
        """A session can be scored."""

    def session_failed(
        self, replica: "Replica", placement: Placement, error: reward_pb2.RowError
    ) -> None:
        """A session has lost its place on this replica."""

    def batch_timed(self, timings: reward_pb2.StepTimings) -> None:
        """How long the replica took for a batch."""


class Replica:
    """Keeps one stream to a replica alive and carries the messages of all sessions on it."""

    def __init__(
        self,
        address: str,
        tokenizer_fingerprint: str,
        events: ReplicaEvents,
        connector: Connector,
    ) -> None:
        self.address = address
        self._connector = connector
        self.is_available = False
        self.model_version = ""
        self.num_free_slots = 0
        self.refusal = ""  # why the replica can never serve this generator
        self._shares_rows = False  # all preferences of a session take one row
        self._fingerprint = tokenizer_fingerprint
        self._events = events
        self._placements: dict[int, Placement] = {}
        self._pending: dict[int, Question] = {}
        self._outgoing: asyncio.Queue[reward_pb2.ScoreRequest] = asyncio.Queue()
        self._numbers = count(1)  # of sessions
        self._batch_ids = count(1)
        self._stub: reward_pb2_grpc.RewardServiceAsyncStub | None = None
        self._abort: asyncio.Event = asyncio.Event()

    async def run(self) -> None:
        """Connect, serve, and connect again, until cancelled."""
        pause = RECONNECT_S[0]
        while True:
            async with self._connector.open(self.address) as channel:
                try:
                    await self._connect(channel)
                    pause = RECONNECT_S[0]
                    await self._serve(channel)
                # InvalidStateError: a write to a stream that ended meanwhile.
                except (grpc.aio.AioRpcError, ValueError, asyncio.InvalidStateError) as error:
                    reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
                    logger.info(
                        "reward replica lost"
                        if self.is_available
                        else "reward replica not reached",
                        extra={"address": self.address, "reason": str(reason)[:200]},
                    )
                finally:
                    self._lose_all()
            await asyncio.sleep(pause)
            pause = min(2 * pause, RECONNECT_S[1])

    def open(self, session: RewardSession, epoch: int) -> Placement:
        """Send a session's prefix; `session_opened` or `session_failed` follows."""
        placement = Placement(session, next(self._numbers) % MAX_NUMBER, epoch)
        self._placements[placement.number] = placement
        session.num_committed = len(session.token_ids)
        message = reward_pb2.ScoreRequest()
        message.opens.add(
            session=placement.number,
            epoch=epoch,
            context=pack_context(session.context, self.model_version),
            token_ids=pack_ids(session.token_ids),
            tokenizer_fingerprint=self._fingerprint,
        )
        has_reference_row = session.context.reference is Reference.BACKBONE
        num_preferences = len(session.context.preferences)
        self.num_free_slots -= (1 if self._shares_rows else num_preferences) + has_reference_row
        self._outgoing.put_nowait(message)
        return placement

    def close(self, placement: Placement) -> None:
        """Give a session's place back."""
        if self._placements.pop(placement.number, None) is not None:
            self._outgoing.put_nowait(reward_pb2.ScoreRequest(closes=[placement.number]))

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
            self._outgoing.put_nowait(reward_pb2.ScoreRequest(commits=pack_commits(rows)))

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
        question = Question(request.candidates, candidates.counts, on_answer, timer)
        self._pending[request.batch_id] = question
        self._outgoing.put_nowait(request)

    def _give_up(self) -> None:
        logger.warning("reward step timed out", extra={"address": self.address})
        self._abort.set()
        self._lose_all()

    @property
    def stub(self) -> "reward_pb2_grpc.RewardServiceAsyncStub":
        """For unary calls; only while the replica is available."""
        assert self._stub is not None, "replica was never connected"
        return self._stub

    @property
    def metadata(self) -> Metadata:
        """What every call to the replica must carry."""
        return self._connector.metadata

    async def _connect(self, channel: grpc.aio.Channel) -> None:
        """Learn what the replica serves.

        Raises:
            ValueError: its tokenizer is another than the generator's.
        """
        stub = reward_pb2_grpc.RewardServiceStub(channel)
        self._stub = stub
        info = await stub.GetServerInfo(
            reward_pb2.RewardServiceGetServerInfoRequest(),
            timeout=INFO_TIMEOUT_S,
            metadata=self.metadata,
        )
        self.model_version = info.model_version
        self.num_free_slots = info.load.num_free_slots
        self._shares_rows = list(info.conditionings) == [reward_pb2.CONDITIONING_VECTOR]
        self.refusal = ""
        if info.tokenizer_fingerprint != self._fingerprint:
            self.refusal = (
                f"tokenizer: reward model {info.model_id} on {self.address} must use the base"
                f" model's ({self._fingerprint}), has {info.tokenizer_fingerprint}"
            )
            raise ValueError(self.refusal)

    async def _serve(self, channel: grpc.aio.Channel) -> None:
        """Carry messages both ways until the stream, the replica's health or a step fails."""
        assert self._stub is not None
        self._outgoing = asyncio.Queue()
        self._abort = asyncio.Event()
        stream = self._stub.Score(metadata=self.metadata)
        tasks = [
            asyncio.create_task(self._write(stream)),
            asyncio.create_task(self._read(stream)),
            asyncio.create_task(self._watch(channel)),
            asyncio.create_task(self._abort.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            stream.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, stream: "Stream") -> None:
        while True:
            await stream.write(await self._outgoing.get())

    async def _read(self, stream: "Stream") -> None:
        async for response in stream:
            self._receive(response)
        raise ValueError("stream was closed by the replica")

    async def _watch(self, channel: grpc.aio.Channel) -> None:
        """Follow the replica's health."""
        stub = health_pb2_grpc.HealthStub(channel)
        async for response in stub.Watch(health_pb2.HealthCheckRequest(service="")):
            if response.status == health_pb2.HealthCheckResponse.SERVING:
                self.is_available = True
                self._events.replica_ready(self)
            elif self.is_available:  # it drains: what runs may end, nothing new is opened
                self.is_available = False
                self._events.replica_draining(self, list(self._placements.values()))
        await self._abort.wait()  # the stream's own end decides

    def _receive(self, response: reward_pb2.ScoreResponse) -> None:
        """Take one message apart.

        Raises:
            ValueError: it does not fit the protocol.
        """
        if response.HasField("load"):
            self.num_free_slots = response.load.num_free_slots
        for opened in response.opened:
            placement = self._placements.get(opened.session)
            if placement is not None and placement.epoch == opened.epoch:
                placement.is_open = True
                self._events.session_opened(self, placement, opened)
        for error in response.row_errors:
            placement = self._placements.get(error.session)
            if placement is not None and placement.epoch == error.epoch:
                self._forget(placement)
                self._events.session_failed(self, placement, error)
        question = self._pending.get(response.batch_id)
        if question is not None:
            rewards, came = unpack_rewards(question.asked, response.rewards, question.counts)
            del self._pending[response.batch_id]
            self._events.batch_timed(response.timings)
            question.answer(rewards, came)

    def _lose_all(self) -> None:
        """Tell everyone who waits for this replica that nothing will come."""
        was_available, self.is_available = self.is_available, False
        placements, self._placements = list(self._placements.values()), {}
        questions, self._pending = list(self._pending.values()), {}
        for question in questions:
            counts = question.counts
            question.answer(torch.zeros(len(counts), max(counts)), [False] * len(counts))
        if was_available or placements:
            self._events.replica_lost(self, placements)


Stream = grpc.aio.StreamStreamCall[reward_pb2.ScoreRequest, reward_pb2.ScoreResponse]
