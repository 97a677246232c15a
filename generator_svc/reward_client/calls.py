"""Calls to the reward service beside the steps: whole answers and encodings."""

import asyncio
import time
from collections.abc import Sequence

from generator_svc.engine.scorer import RewardContext
from generator_svc.reward_client.connector import Metadata
from generator_svc.reward_client.errors import unary_errors
from generator_svc.reward_client.fleet import Fleet
from generator_svc.reward_client.replica import Replica
from generator_svc.reward_client.wire import pack_context
from pad.v1 import reward_pb2, reward_pb2_grpc
from svc_common.array_fields import pack
from svc_common.errors import ServiceError
from svc_common.tracing import trace_metadata

_LEAST_S = 0.001


class RewardCalls:
    """Unary calls to any replica of a fleet."""

    def __init__(self, fleet: Fleet, tokenizer_fingerprint: str) -> None:
        self._fleet = fleet
        self._fingerprint = tokenizer_fingerprint

    @property
    def model_versions(self) -> frozenset[str]:
        """Versions of the models of available replicas; one, but while they change."""
        return frozenset(replica.model_version for replica in self._fleet.available)

    @property
    def vector_versions(self) -> frozenset[str]:
        """Those of models whose encodings are vectors, which take a forward."""
        replicas = self._fleet.available
        return frozenset(replica.model_version for replica in replicas if replica.has_vectors)

    async def score_sequences(
        self, context: RewardContext, answers: list[list[int]], timeout_s: float
    ) -> tuple[str, list[float]]:
        """Return (model version, reward of each whole answer), for best-of-n.

        Raises:
            RewardUnavailableError: no replica answered in time.
        """
        replica, left_s = await self._any_replica(timeout_s)
        request = reward_pb2.ScoreSequencesRequest(
            context=pack_context(context, replica.model_version, context.reference),
            sequences=[pack(answer) for answer in answers],
            tokenizer_fingerprint=self._fingerprint,
        )
        with unary_errors():
            response = await replica.stub.ScoreSequences(
                request, timeout=left_s, metadata=(*replica.metadata, *trace_metadata())
            )
        return replica.model_version, list(response.rewards)

    async def encode_preference(
        self, text: str, subject: bytes, timeout_s: float, model_version: str = ""
    ) -> tuple[str, bytes]:
        """Return (model version, encoding) of a preference; `subject` is as in RewardContext.

        A replica with that version is asked; where none is named, any.

        Raises:
            RewardUnavailableError: no replica answered in time.
        """
        request = reward_pb2.EncodePreferenceRequest(subject=subject)
        request.preference.text = text
        replica, left_s = await self._any_replica(timeout_s, model_version)
        with unary_errors():
            response = await replica.stub.EncodePreference(
                request, timeout=left_s, metadata=(*replica.metadata, *trace_metadata())
            )
        return response.model_version, response.encoding

    async def forget(self, subjects: Sequence[bytes], timeout_s: float) -> bool:
        """Have all known replicas drop what they keep of these users; say whether all did.

        Those too that get no sessions now, as they failed or are about to stop: they keep as much.
        """
        request = reward_pb2.ForgetRequest(subjects=subjects)
        replicas = self._fleet.replicas
        asked = [replica for replica in replicas if replica.is_reached]
        # The stubs of now: by its turn a replica may be lost.
        told = await asyncio.gather(
            *(_forget(replica.stub, replica.metadata, request, timeout_s) for replica in asked)
        )
        return len(asked) == len(replicas) and all(told)

    async def _any_replica(
        self, timeout_s: float, model_version: str = ""
    ) -> tuple[Replica, float]:
        """Return a replica, and what waiting for it has left of the time."""
        started = time.monotonic()
        await self._fleet.wait_available(timeout_s)
        replica = self._fleet.choose(avoid=set(), model_version=model_version)
        if replica is None:
            raise self._fleet.unavailable()
        return replica, max(_LEAST_S, timeout_s - (time.monotonic() - started))


async def _forget(
    stub: "reward_pb2_grpc.RewardServiceAsyncStub",
    metadata: Metadata,
    request: reward_pb2.ForgetRequest,
    timeout_s: float,
) -> bool:
    try:
        with unary_errors():
            await stub.Forget(request, timeout=timeout_s, metadata=metadata)
    except ServiceError:
        return False
    return True
