"""A reward replica that speaks the real protocol and does what a test tells it to."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2_grpc

from pad.v1 import reward_pb2, reward_pb2_grpc
from svc_common.health import Health

FINGERPRINT = "fingerprint"


def unpack(data: bytes) -> list[int]:
    values: list[int] = np.frombuffer(data, "<u4").tolist()
    return values


class FakeReplica(reward_pb2_grpc.RewardServiceServicer):
    """Rewards of a row are its session's number of committed tokens; it notes what it is sent."""

    def __init__(self) -> None:
        self.fingerprint = FINGERPRINT
        self.reference_fingerprint = ""
        self.references: list[int] = []  # of the sessions it was asked to open
        self.traces: list[tuple[str, int]] = []  # of these, with their epochs
        self.model_version = "v1"
        self.refuses_opens: int | None = None  # a RowErrorReason
        self.ignores_opens = False
        self.is_silent = False  # owes rewards for ever
        self.cuts_rewards = False  # answers fewer rewards than candidates
        self.health = Health([])
        self.shifts_steps = 0  # answers belong to another step
        self.committed: dict[int, list[int]] = {}
        self.log: list[str] = []
        self.num_streams = 0
        self.port = 0  # where it is served
        self.hang_up = asyncio.Event()

    async def GetServerInfo(self, request: Any, context: Any) -> Any:
        return reward_pb2.RewardServiceGetServerInfoResponse(
            model_id="fake",
            model_version=self.model_version,
            tokenizer_fingerprint=self.fingerprint,
            reference_fingerprint=self.reference_fingerprint,
            load=reward_pb2.Load(num_free_slots=8),
        )

    async def EncodePreference(self, request: Any, context: Any) -> Any:
        return reward_pb2.EncodePreferenceResponse(encoding=b"enc", model_version="v1")

    async def ScoreSequences(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "context: too long")

    async def Score(
        self, requests: AsyncIterator[reward_pb2.ScoreRequest], context: Any
    ) -> AsyncGenerator[reward_pb2.ScoreResponse, None]:
        self.num_streams += 1
        self.committed.clear()
        hang_up = asyncio.create_task(self.hang_up.wait())
        while True:
            reading = asyncio.ensure_future(anext(requests))
            await asyncio.wait((reading, hang_up), return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and reading.exception() is not None:
                hang_up.cancel()
                return
            if hang_up.done():
                reading.cancel()
                self.hang_up.clear()
                return
            for response in self._answer(await reading):
                yield response

    def _answer(self, request: reward_pb2.ScoreRequest) -> list[reward_pb2.ScoreResponse]:
        for session in request.closes:
            self.log.append("close")
            self.committed.pop(session, None)
        responses = [self._open(message) for message in request.opens]
        if request.HasField("commits"):
            rows = request.commits
            self.log.append(f"commit {len(unpack(rows.sessions))}")
            for session, step, token in zip(
                unpack(rows.sessions), unpack(rows.steps), unpack(rows.token_ids), strict=True
            ):
                assert step == len(self.committed[session]), "a commit was lost or doubled"
                self.committed[session].append(token)
        if request.HasField("candidates"):
            self.log.append(f"score {len(unpack(request.candidates.sessions))}")
            if not self.is_silent:
                responses.append(self._score(request))
        return responses

    def _open(self, message: reward_pb2.SessionOpen) -> reward_pb2.ScoreResponse:
        self.log.append(f"open {len(unpack(message.token_ids))}")
        self.traces.append((message.trace.traceparent, message.epoch))
        self.references.append(message.context.reference)
        response = reward_pb2.ScoreResponse()
        if self.refuses_opens is not None:
            response.row_errors.add(
                session=message.session,
                epoch=message.epoch,
                reason=self.refuses_opens,
                message="prompt: must be shorter",
            )
            return response
        if self.ignores_opens:
            return response
        self.committed[message.session] = unpack(message.token_ids)
        response.opened.add(session=message.session, epoch=message.epoch, max_answer_tokens=100)
        return response

    def _score(self, request: reward_pb2.ScoreRequest) -> reward_pb2.ScoreResponse:
        rows = request.candidates
        if self.cuts_rewards:
            ones = np.ones(len(unpack(rows.sessions)), "<u4").tobytes()
            rows = reward_pb2.CandidateRows(
                sessions=rows.sessions, epochs=rows.epochs, steps=rows.steps, num_candidates=ones
            )
        rewards = np.concatenate(
            [
                np.full(count, len(self.committed[session]), "<f4")
                for session, count in zip(
                    unpack(rows.sessions), unpack(rows.num_candidates), strict=True
                )
            ]
        )
        steps = np.frombuffer(rows.steps, "<u4") + self.shifts_steps
        return reward_pb2.ScoreResponse(
            batch_id=request.batch_id,
            rewards=reward_pb2.RewardRows(
                sessions=rows.sessions,
                epochs=rows.epochs,
                steps=steps.astype("<u4").tobytes(),
                num_candidates=rows.num_candidates,
                rewards=rewards.tobytes(),
            ),
        )


@asynccontextmanager
async def running_replica(replica: FakeReplica, port: int = 0) -> AsyncIterator[int]:
    """Serve on a port, healthy, until the block ends."""
    server = grpc.aio.server()
    replica.health.set_serving(True)
    reward_pb2_grpc.add_RewardServiceServicer_to_server(replica, server)
    health_pb2_grpc.add_HealthServicer_to_server(replica.health, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    replica.port = bound
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)
