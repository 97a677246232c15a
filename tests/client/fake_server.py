"""A generator that knows the contract and no model: what it answers is written below."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import grpc.aio

from pad.v1 import common_pb2, generator_pb2, profile_pb2
from pad.v1.generator_pb2_grpc import (
    GeneratorServiceServicer,
    add_GeneratorServiceServicer_to_server,
)
from pad.v1.profile_pb2_grpc import ProfileServiceServicer, add_ProfileServiceServicer_to_server

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

BASE_TOKENS = ("What", " kind", " of", " food", " do", " you", " like", "?")
GUIDED_TOKENS = ("Sure", ", what", " kind", " of", " food", " would", " you", " like", "!")


@dataclass(frozen=True)
class Failure:
    """A status every call ends with."""

    code: grpc.StatusCode
    details: str = ""
    pushback_ms: str | None = None


@dataclass
class FakeServer(GeneratorServiceServicer, ProfileServiceServicer):
    """Answers guided requests with GUIDED_TOKENS, others with BASE_TOKENS.

    `failure` ends each call with that status; `failure_after` lets so many tokens through first;
    `hang_after` stops after so many tokens until the call is cancelled, which sets `cancelled`.
    """

    failure: Failure | None = None
    failure_after: int = 0
    max_failures: int = 1_000_000  # calls that fail, before the rest succeeds
    num_failures: int = 0
    hang_after: int | None = None
    has_summary: bool = True
    replica_addresses: tuple[str, ...] = ("127.0.0.1:50052",)
    requests: list[generator_pb2.GenerateRequest] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    time_remaining_s: list[float] = field(default_factory=list)
    profiles: dict[str, profile_pb2.Profile] = field(default_factory=dict)
    fails_at_page: int | None = None  # of all that were asked for; else all are as other calls
    num_pages: int = 0
    before_put: Callable[[_Context], Awaitable[None]] | None = None
    earlier: dict[str, list[profile_pb2.Profile]] = field(default_factory=dict)
    called: asyncio.Event = field(default_factory=asyncio.Event)
    damaged: tuple[str, ...] = ()
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def Generate(
        self, request: generator_pb2.GenerateRequest, context: _Context
    ) -> AsyncIterator[generator_pb2.GenerateResponse]:
        self._note(request, context)
        if self.failure_after == 0:
            await self._fail(context)
        tokens = self._tokens(request)
        try:
            for token in tokens:
                if token.index == self.hang_after:
                    await asyncio.Event().wait()
                yield generator_pb2.GenerateResponse(token=token)
                if token.index + 1 == self.failure_after:
                    await self._fail(context)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise
        if self.has_summary:
            yield generator_pb2.GenerateResponse(summary=self._summary(request, tokens))

    async def Complete(
        self, request: generator_pb2.CompleteRequest, context: _Context
    ) -> generator_pb2.CompleteResponse:
        self._note(request.generation, context)
        await self._fail(context)
        if self.hang_after is not None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        tokens = self._tokens(request.generation)
        return generator_pb2.CompleteResponse(
            text="".join(token.text for token in tokens),
            tokens=tokens,
            summary=self._summary(request.generation, tokens),
        )

    async def ExplainPersonalization(
        self, request: generator_pb2.ExplainPersonalizationRequest, context: _Context
    ) -> generator_pb2.ExplainPersonalizationResponse:
        request.generation.detail = generator_pb2.DETAIL_EXPLANATION
        answer = await self.Complete(
            generator_pb2.CompleteRequest(generation=request.generation), context
        )
        return generator_pb2.ExplainPersonalizationResponse(
            text=answer.text, tokens=answer.tokens, summary=answer.summary
        )

    async def GetServerInfo(
        self, request: generator_pb2.GetServerInfoRequest, context: _Context
    ) -> generator_pb2.GetServerInfoResponse:
        await self._fail(context)
        return generator_pb2.GetServerInfoResponse(
            model_id="demo-base",
            model_version="m1",
            tokenizer_fingerprint="t1",
            vocabulary_size=4096,
            context_length=512,
            max_tokens=256,
            max_top_k=100,
            default_beta=1.5,
            num_slots=8,
            software_version="0.1.0",
            reward_replicas=[
                generator_pb2.RewardReplica(
                    address=address, is_available=True, num_free_slots=16, model_version="r1"
                )
                for address in self.replica_addresses
            ],
        )

    async def PutProfile(
        self, request: profile_pb2.PutProfileRequest, context: _Context
    ) -> profile_pb2.PutProfileResponse:
        await self._fail(context)
        if self.before_put is not None:
            await self.before_put(context)
        stored = self.profiles.get(request.user_id)
        revision = stored.revision if stored else 0
        if request.HasField("expected_revision") and request.expected_revision != revision:
            await context.abort(grpc.StatusCode.ABORTED, f"expected_revision: is {revision}")
        profile = profile_pb2.Profile(
            user_id=request.user_id,
            preferences=request.preferences,
            beta=request.beta if request.HasField("beta") else None,
            revision=revision + 1,
        )
        profile.updated_at.FromSeconds(1_700_000_000 + revision)
        earlier = [] if stored is None else [stored, *self.earlier.get(request.user_id, [])]
        self.earlier[request.user_id] = [] if request.erases_history else earlier
        self.profiles[request.user_id] = profile
        return profile_pb2.PutProfileResponse(profile=profile)

    async def GetProfile(
        self, request: profile_pb2.GetProfileRequest, context: _Context
    ) -> profile_pb2.GetProfileResponse:
        await self._fail(context)
        if request.user_id not in self.profiles:
            await context.abort(grpc.StatusCode.NOT_FOUND, "user_id: has no profile")
        return profile_pb2.GetProfileResponse(profile=self.profiles[request.user_id])

    async def DeleteProfile(
        self, request: profile_pb2.DeleteProfileRequest, context: _Context
    ) -> profile_pb2.DeleteProfileResponse:
        await self._fail(context)
        if request.user_id not in self.profiles:
            await context.abort(grpc.StatusCode.NOT_FOUND, "user_id: has no profile")
        del self.profiles[request.user_id]
        self.earlier.pop(request.user_id, None)
        return profile_pb2.DeleteProfileResponse()

    async def ListProfileRevisions(
        self, request: profile_pb2.ListProfileRevisionsRequest, context: _Context
    ) -> profile_pb2.ListProfileRevisionsResponse:
        await self._fail(context)
        if request.user_id not in self.profiles:
            await context.abort(grpc.StatusCode.NOT_FOUND, "user_id: has no profile")
        current = self.profiles[request.user_id]
        is_damaged = request.user_id in self.damaged
        return profile_pb2.ListProfileRevisionsResponse(
            revisions=[*([] if is_damaged else [current]), *self.earlier[request.user_id]],
            current_revision=0 if is_damaged else current.revision,
        )

    async def RestoreProfile(
        self, request: profile_pb2.RestoreProfileRequest, context: _Context
    ) -> profile_pb2.RestoreProfileResponse:
        await self._fail(context)
        found = [p for p in self.earlier[request.user_id] if p.revision == request.revision]
        if not found:
            await context.abort(grpc.StatusCode.NOT_FOUND, "revision: must be one that is kept")
        put = profile_pb2.PutProfileRequest(
            user_id=request.user_id,
            preferences=found[0].preferences,
            beta=found[0].beta if found[0].HasField("beta") else None,
            expected_revision=(
                request.expected_revision if request.HasField("expected_revision") else None
            ),
        )
        return profile_pb2.RestoreProfileResponse(
            profile=(await self.PutProfile(put, context)).profile
        )

    async def ListProfiles(
        self, request: profile_pb2.ListProfilesRequest, context: _Context
    ) -> profile_pb2.ListProfilesResponse:
        self.num_pages += 1
        if self.fails_at_page in (None, self.num_pages):
            await self._fail(context)
        page_size = request.page_size or 100
        users = sorted(user for user in self.profiles if user > request.page_token)
        return profile_pb2.ListProfilesResponse(
            profiles=[self.profiles[user] for user in users[:page_size]],
            damaged_user_ids=self.damaged,
            next_page_token=users[page_size - 1] if len(users) > page_size else "",
        )

    def _note(self, request: generator_pb2.GenerateRequest, context: _Context) -> None:
        self.requests.append(request)
        self.called.set()
        self.metadata.append(
            {key: str(value) for key, value in context.invocation_metadata() or ()}
        )
        self.time_remaining_s.append(context.time_remaining())

    async def _fail(self, context: _Context) -> None:
        if self.failure is not None and self.num_failures < self.max_failures:
            self.num_failures += 1
            trailing = [("x-request-id", "r-1")]  # by which a real server's answer is known
            if self.failure.pushback_ms is not None:
                trailing.append(("grpc-retry-pushback-ms", self.failure.pushback_ms))
            await context.abort(self.failure.code, self.failure.details, tuple(trailing))

    @staticmethod
    def _is_guided(request: generator_pb2.GenerateRequest) -> bool:
        return request.strategy != generator_pb2.STRATEGY_BASE and bool(
            request.user_id or request.preferences
        )

    def _tokens(self, request: generator_pb2.GenerateRequest) -> list[generator_pb2.Token]:
        is_guided = self._is_guided(request)
        return [
            generator_pb2.Token(
                index=index,
                text=text,
                token_id=100 + index,
                logprob=-0.5,
                reward=0.25 if is_guided else 0.0,
                guided=is_guided,
                changed=is_guided and text not in BASE_TOKENS,
                base_token_id=7,
                base_text=" base",
                candidates=[
                    generator_pb2.Candidate(
                        token_id=100 + index, text=text, logprob=-0.5, reward=0.25, score=-0.25
                    )
                ]
                if request.detail == generator_pb2.DETAIL_CANDIDATES
                else [],
                explanation=(
                    generator_pb2.TokenExplanation(
                        rewards=[0.5, -0.25],
                        base_rewards=[-1.5, 0.0] if text not in BASE_TOKENS else [0.5, -0.25],
                        changed_by=0 if text not in BASE_TOKENS else None,
                    )
                    if request.detail == generator_pb2.DETAIL_EXPLANATION
                    else None
                ),
            )
            for index, text in enumerate(GUIDED_TOKENS if is_guided else BASE_TOKENS)
        ]

    def _summary(
        self, request: generator_pb2.GenerateRequest, tokens: list[generator_pb2.Token]
    ) -> generator_pb2.Summary:
        is_guided = self._is_guided(request)
        return generator_pb2.Summary(
            request_id="r-1",
            finish_reason=generator_pb2.FINISH_REASON_END_OF_TURN,
            num_prompt_tokens=5,
            num_tokens=len(tokens),
            num_guided_tokens=len(tokens) if is_guided else 0,
            num_changed_tokens=sum(token.changed for token in tokens),
            strategy=generator_pb2.STRATEGY_PAD if is_guided else generator_pb2.STRATEGY_BASE,
            beta=request.beta if request.HasField("beta") else 1.5,
            seed=request.seed if request.HasField("seed") else 99,
            profile_revision=1 if request.user_id in self.profiles else 0,
            reward_model_version="r1" if is_guided else "",
            timings=generator_pb2.Timings(queue_s=0.001, total_s=0.02 * len(tokens)),
            sample_rewards=[-0.5, 1.25, 0.0][: request.num_samples],
            explanation=(
                generator_pb2.Explanation(
                    preferences=[
                        generator_pb2.PreferenceExplanation(
                            preference=preference("Be kind."),
                            num_changed_tokens=4,
                            contribution=12.0,
                            reward=4.5,
                        ),
                        generator_pb2.PreferenceExplanation(
                            preference=preference("Be brief.", 2.0), contribution=-1.5
                        ),
                    ]
                )
                if request.detail == generator_pb2.DETAIL_EXPLANATION
                else None
            ),
        )


def add_to_server(fake: FakeServer, server: grpc.aio.Server) -> None:
    """Make a server answer with the fake."""
    add_GeneratorServiceServicer_to_server(fake, server)
    add_ProfileServiceServicer_to_server(fake, server)


def preference(text: str, weight: float = 1.0) -> common_pb2.Preference:
    """Return a preference as the wire has it."""
    return common_pb2.Preference(text=text, weight=weight)
