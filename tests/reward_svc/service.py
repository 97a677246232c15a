"""A reward service over real gRPC in this process, and its messages."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import numpy as np

from pad.v1 import common_pb2, reward_pb2, reward_pb2_grpc
from reward_svc.encoder import PreferenceEncoder
from reward_svc.model import PersRM
from reward_svc.prompts import RewardContext
from reward_svc.servicer import RewardServicer
from svc_common.health import Health
from svc_common.server import bind, new_server
from svc_common.server_options import ServerOptions
from tests.reward_svc.replica import Replica, running_replica

OPTIONS = ServerOptions("REWARD_", listen="127.0.0.1:0", metrics_port=0, drain_s=5.0)


@dataclass
class Service:
    replica: Replica
    stub: Any
    channel: grpc.aio.Channel
    fingerprint: str
    address: str

    async def free_slots(self) -> int:
        request = reward_pb2.RewardServiceGetServerInfoRequest()
        return int((await self.stub.GetServerInfo(request)).load.num_free_slots)

    def open(
        self, number: int, what: RewardContext, written: Sequence[int] = ()
    ) -> reward_pb2.SessionOpen:
        return reward_pb2.SessionOpen(
            session=number,
            context=context_message(what),
            token_ids=pack(written),
            tokenizer_fingerprint=self.fingerprint,
        )


@asynccontextmanager
async def running_service(model: PersRM) -> AsyncIterator[Service]:
    async with running_replica(model) as replica:
        encoder = PreferenceEncoder(replica.cache, replica.batcher)
        servicer = RewardServicer(
            replica.cache, replica.batcher, encoder, replica.forgetting, "1.2.3"
        )
        add = partial(reward_pb2_grpc.add_RewardServiceServicer_to_server, servicer)
        health = Health(["pad.v1.RewardService"])
        server = new_server(OPTIONS, health, replica.registry, [add])
        address = bind(server, OPTIONS)
        await server.start()
        health.set_serving(True)
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                stub = reward_pb2_grpc.RewardServiceStub(channel)
                yield Service(replica, stub, channel, model.tokenizer.fingerprint, address)
        finally:
            await server.stop(None)


def pack(values: Sequence[int]) -> bytes:
    return np.array(values, "<u4").tobytes()


def context_message(what: RewardContext) -> reward_pb2.RewardContext:
    message = reward_pb2.RewardContext(reference=what.reference.value)  # type: ignore[arg-type]
    if isinstance(what.prompt, str):
        message.prompt = what.prompt
    else:
        for turn in what.prompt:
            message.chat.messages.add(role=turn.role, content=turn.content)
    for preference in what.preferences:
        stated = common_pb2.Preference(text=preference.text, weight=preference.weight)
        vector = preference.vector
        encoding = pack(preference.encoding) if vector is None else vector.tobytes()
        message.preferences.add(preference=stated, encoding=encoding)
    return message


def candidate_rows(*asked: tuple[int, int, Sequence[int]]) -> reward_pb2.CandidateRows:
    return reward_pb2.CandidateRows(
        sessions=pack([number for number, _, _ in asked]),
        epochs=pack([0] * len(asked)),
        steps=pack([step for _, step, _ in asked]),
        num_candidates=pack([len(ids) for _, _, ids in asked]),
        candidate_ids=b"".join(pack(ids) for _, _, ids in asked),
    )


def commit_rows(*commits: tuple[int, int, int]) -> reward_pb2.CommitRows:
    return reward_pb2.CommitRows(
        sessions=pack([number for number, _, _ in commits]),
        epochs=pack([0] * len(commits)),
        steps=pack([step for _, step, _ in commits]),
        token_ids=pack([token for _, _, token in commits]),
    )


async def wait_for_free_slots(service: Service, wanted: int) -> None:
    async with asyncio.timeout(20):
        while await service.free_slots() != wanted:  # an RPC round trip each time
            pass
