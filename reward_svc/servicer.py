"""The RewardService: converts at the door and leaves the work to the batcher."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Any, TypeAlias

import grpc

from pad.v1 import common_pb2, reward_pb2, reward_pb2_grpc
from reward_svc import wire, wire_context
from reward_svc.batcher import Batcher
from reward_svc.encoder import PreferenceEncoder
from reward_svc.forgetting import Forgetting, check_subject
from reward_svc.messages import Message, Opening, Reason, RowFault
from reward_svc.prompts import Plan, check_lengths, num_characters, plan_session
from reward_svc.sequences import score_answers
from reward_svc.sessions import SessionCache
from reward_svc.spoiling import garble
from reward_svc.stream import Stream
from svc_common.errors import InvalidRequestError, ModelMismatchError
from svc_common.fault_points import FaultPoints
from svc_common.lm.tokenizing import Tokenizing

MAX_SEQUENCES = 16
MAX_PAUSE_S = 0.01  # between two openings of a message
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class RewardServicer(reward_pb2_grpc.RewardServiceServicer):
    """Serves one reward model."""

    def __init__(
        self,
        cache: SessionCache,
        batcher: Batcher,
        encoder: PreferenceEncoder,
        forgetting: Forgetting,
        software_version: str,
        faults: FaultPoints | None = None,
        tokenizing: Tokenizing | None = None,
    ) -> None:
        self._cache = cache
        self._model = cache.model
        self._batcher = batcher
        self._encoder = encoder
        self._forgetting = forgetting
        self._software_version = software_version
        self._faults = faults or FaultPoints()
        self._tokenizing = tokenizing or Tokenizing()

    async def Score(
        self, request_iterator: AsyncIterator[reward_pb2.ScoreRequest], context: _Context
    ) -> AsyncGenerator[reward_pb2.ScoreResponse, None]:
        stream = self._batcher.intake.open_stream()
        reader = asyncio.create_task(self._read(request_iterator, stream))
        try:
            while (answer := await stream.next_answer()) is not None:
                response = wire.response(answer, self._batcher.load)
                if self._faults.is_armed:
                    async for spoilt in self._faults.spoil("answers", response, garble):
                        yield spoilt
                else:
                    yield response
            if reader.done():
                reader.result()
            stream.check_is_read()
        finally:
            self._batcher.intake.end_stream(stream)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            # Its error knows the message, and, raised here, this frame: nothing may close the ring.
            del reader

    async def _read(self, requests: AsyncIterator[reward_pb2.ScoreRequest], stream: Stream) -> None:
        """Hand over the stream's messages; an error in one ends the stream."""
        try:
            async for request in requests:
                message = await self._message(request, stream)
                await self._batcher.intake.submit(stream, message)
            self._batcher.intake.half_close(stream)
        except BaseException:
            stream.finish()
            raise

    async def _message(self, request: reward_pb2.ScoreRequest, stream: Stream) -> Message:
        """Convert a message; what cannot be opened is answered here.

        Raises:
            InvalidRequestError: The arrays do not fit together.
        """
        wire.check_rows("closes", len(request.closes))
        wire.check_rows("opens", len(request.opens), wire.MAX_OPENINGS)
        openings = []
        spent_s = 0.0
        for opening in request.opens:
            if spent_s:  # what is short is tokenised on the loop: others get as long in between
                await asyncio.sleep(min(spent_s, MAX_PAUSE_S))
            started = time.perf_counter()
            opened = await self._opening(opening)
            if isinstance(opened, RowFault):
                self._batcher.intake.refuse(stream, opened)
            else:
                openings.append(opened)
            spent_s = time.perf_counter() - started
        asked = None
        if request.HasField("candidates"):
            size = self._model.vocabulary_size
            asked = wire.candidates(request.candidates, request.batch_id, size)
        return Message(
            closes=tuple(request.closes),
            openings=tuple(openings),
            commits=wire.commits("commits", request.commits),
            candidates=asked,
            tentative=wire.commits("tentative_commits", request.tentative_commits),
        )

    async def _opening(self, message: reward_pb2.SessionOpen) -> Opening | RowFault:
        """Return a session to open, or why it cannot be opened here."""
        try:
            self._check_tokenizer(message.tokenizer_fingerprint)
            plan = await self._plan(message.context)
            token_ids = self._token_ids("token_ids", message.token_ids)
            self._model.check_length("context", plan.longest + len(token_ids))
            self._check_rows(len(plan.prompts))
            trace = wire_context.trace("trace", message)
        except InvalidRequestError as error:
            return RowFault(message.session, message.epoch, 0, Reason.INVALID, str(error))
        except ModelMismatchError as error:
            return RowFault(message.session, message.epoch, 0, Reason.MODEL_MISMATCH, str(error))
        is_explained = message.wants_preference_rewards
        return Opening(
            message.session, message.epoch, plan, token_ids, is_explained=is_explained, trace=trace
        )

    def _token_ids(self, field: str, data: bytes) -> tuple[int, ...]:
        return wire.token_ids(field, data, self._model.vocabulary_size, self._model.context_length)

    def _check_rows(self, num_rows: int) -> None:
        if num_rows > self._cache.num_slots:
            raise InvalidRequestError(
                f"preferences: must fit in {self._cache.num_slots} rows, need {num_rows}"
            )

    def _check_tokenizer(self, fingerprint: str) -> None:
        mine = self._model.tokenizer.fingerprint
        if fingerprint != mine:
            rule = f"must be the reward model's {mine}, got {fingerprint[:40]!r}"
            raise ModelMismatchError(f"tokenizer_fingerprint: {rule}")

    async def _plan(self, message: reward_pb2.RewardContext) -> Plan:
        model = self._model
        context = wire_context.context(
            message,
            has_reference=model.has_reference,
            max_turns=model.context_length,  # a turn takes a token at least
            vector_size=model.vectors.size if model.vectors is not None else None,
        )
        check_lengths(context, model.tokenizer, model.context_length)
        if model.vectors is not None:
            for i, preference in enumerate(context.preferences):
                model.vectors.check(f"preferences[{i}].text", preference.text)
        plan = partial(plan_session, context, model.tokenizer, model.conditioning)
        return await self._tokenizing.run(num_characters(context), plan)

    async def ScoreSequences(
        self, request: reward_pb2.ScoreSequencesRequest, context: _Context
    ) -> reward_pb2.ScoreSequencesResponse:
        self._check_tokenizer(request.tokenizer_fingerprint)
        if not 1 <= len(request.sequences) <= MAX_SEQUENCES:
            got = len(request.sequences)
            raise InvalidRequestError(f"sequences: must be 1..{MAX_SEQUENCES}, got {got}")
        answers = [
            self._token_ids(f"sequences[{i}]", data) for i, data in enumerate(request.sequences)
        ]
        plan = await self._plan(request.context)
        for i, answer in enumerate(answers):
            self._model.check_length(f"sequences[{i}]", plan.longest + len(answer))
        rewards = await self._batcher.call(score_answers(self._cache, plan, answers))
        return reward_pb2.ScoreSequencesResponse(rewards=rewards)

    async def EncodePreference(
        self, request: reward_pb2.EncodePreferenceRequest, context: _Context
    ) -> reward_pb2.EncodePreferenceResponse:
        preference = wire_context.preference("preference", request.preference)
        check_subject("subject", request.subject)
        encoding = await self._encoder.encode(preference.text, request.subject)
        return reward_pb2.EncodePreferenceResponse(
            encoding=wire_context.encoding(encoding),
            conditioning=wire_context.CONDITIONINGS[self._model.conditioning][-1],
            model_version=self._model.version,
        )

    async def Forget(
        self, request: reward_pb2.ForgetRequest, context: _Context
    ) -> reward_pb2.ForgetResponse:
        num_tokens = await self._forgetting.forget(request.subjects)
        return reward_pb2.ForgetResponse(num_prefix_tokens=num_tokens)

    async def GetServerInfo(
        self, request: reward_pb2.RewardServiceGetServerInfoRequest, context: _Context
    ) -> reward_pb2.RewardServiceGetServerInfoResponse:
        references = [common_pb2.REFERENCE_MODE_BASE]
        if self._model.has_reference:
            references.insert(0, common_pb2.REFERENCE_MODE_BACKBONE)
        return reward_pb2.RewardServiceGetServerInfoResponse(
            model_id=self._model.model_id,
            model_version=self._model.version,
            tokenizer_fingerprint=self._model.tokenizer.fingerprint,
            vocabulary_size=self._model.vocabulary_size,
            context_length=self._model.context_length,
            conditionings=wire_context.CONDITIONINGS[self._model.conditioning],
            references=references,
            num_slots=self._cache.num_slots,
            load=wire.load_message(self._batcher.load),
            software_version=self._software_version,
            reference_fingerprint=self._model.reference_fingerprint,
        )
