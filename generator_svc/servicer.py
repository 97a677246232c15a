"""GeneratorService: messages in, checked; values out, as messages."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from generator_svc.deadline import Deadline
from generator_svc.engine.scorer import Replicas
from generator_svc.engine.sequence import ChosenToken
from generator_svc.explaining import check_may_explain
from generator_svc.generation import Generator
from generator_svc.generation_trace import NO_TRACE, GenerationTraces
from generator_svc.planning import Origin
from generator_svc.request_parsing import RequestLimits, parse_request
from generator_svc.responses import summary_message, token_message
from pad.v1 import generator_pb2, generator_pb2_grpc
from svc_common.callers import current_caller
from svc_common.errors import InvalidRequestError
from svc_common.lm.tokenizer import Tokenizer
from svc_common.rpc_boundary import current_request_id

Context = grpc.aio.ServicerContext[Any, Any]
WholeAnswer: TypeAlias = (
    generator_pb2.CompleteResponse | generator_pb2.ExplainPersonalizationResponse
)


class GeneratorServicer(generator_pb2_grpc.GeneratorServiceServicer):
    """Converts at the door; the work is done by `Generator`."""

    def __init__(
        self,
        generator: Generator,
        tokenizer: Tokenizer,
        fleet: Replicas,
        limits: RequestLimits,
        info: generator_pb2.GetServerInfoResponse,
        traces: GenerationTraces | None = None,
    ) -> None:
        self._generator = generator
        self._tokenizer = tokenizer
        self._fleet = fleet
        self._limits = limits
        self._info = info
        self._traces = traces

    async def Generate(
        self, request: generator_pb2.GenerateRequest, context: Context
    ) -> AsyncGenerator[generator_pb2.GenerateResponse, None]:
        checked = parse_request(request, self._limits)
        caller = current_caller()
        check_may_explain(checked, caller)
        deadline = Deadline.after(context.time_remaining())
        trace = NO_TRACE if self._traces is None else self._traces.begin(checked)
        origin = Origin(current_request_id(), caller.tenant, deadline, trace=trace)
        answer = self._generator.answer(checked, origin)
        async with aclosing(answer) as events:
            async for event in events:
                if isinstance(event, ChosenToken):
                    token = token_message(
                        event, self._tokenizer, with_candidates=checked.wants_candidates
                    )
                    yield generator_pb2.GenerateResponse(token=token)
                else:
                    yield generator_pb2.GenerateResponse(summary=summary_message(event))

    async def Complete(
        self, request: generator_pb2.CompleteRequest, context: Context
    ) -> generator_pb2.CompleteResponse:
        response = generator_pb2.CompleteResponse()
        await self._complete(request.generation, context, response)
        return response

    async def ExplainPersonalization(
        self, request: generator_pb2.ExplainPersonalizationRequest, context: Context
    ) -> generator_pb2.ExplainPersonalizationResponse:
        generation = request.generation
        if generation.detail not in (
            generator_pb2.DETAIL_UNSPECIFIED,
            generator_pb2.DETAIL_EXPLANATION,
        ):
            raise InvalidRequestError(
                f"generation.detail: must be unset or DETAIL_EXPLANATION, got {generation.detail}"
            )
        generation.detail = generator_pb2.DETAIL_EXPLANATION
        response = generator_pb2.ExplainPersonalizationResponse()
        await self._complete(generation, context, response)
        return response

    async def _complete(
        self, request: generator_pb2.GenerateRequest, context: Context, response: WholeAnswer
    ) -> None:
        """Write an answer and put it into the response."""
        async with aclosing(self.Generate(request, context)) as messages:
            async for message in messages:
                if message.HasField("token"):
                    response.tokens.append(message.token)
                else:
                    response.summary.CopyFrom(message.summary)
        response.text = "".join(token.text for token in response.tokens)

    async def GetServerInfo(
        self, request: generator_pb2.GetServerInfoRequest, context: Context
    ) -> generator_pb2.GetServerInfoResponse:
        response = generator_pb2.GetServerInfoResponse()
        response.CopyFrom(self._info)
        for replica in self._fleet.replicas:
            response.reward_replicas.add(
                address=replica.address,
                is_available=replica.is_available,
                num_free_slots=max(0, replica.num_free_slots),
                model_version=replica.model_version,
                is_suspended=replica.is_suspended,
            )
        return response
