"""The client for asyncio: each method is one call, made by `requests` and read by `responses`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Self, TypeVar, Unpack

import grpc
import grpc.aio

from pad.v1 import generator_pb2
from pad.v1.generator_pb2_grpc import GeneratorServiceStub
from pad.v1.profile_pb2_grpc import ProfileServiceStub
from pad_client import requests, responses
from pad_client.access import Access, AccessOptions
from pad_client.addresses import grpc_target
from pad_client.aio_token_stream import AsyncTokenStream, ResponseCall, is_cancelled
from pad_client.errors import RequestCancelledError, error_from_rpc
from pad_client.retries import Attempts, RetryBudget
from pad_client.types import (
    Completion,
    GenerateOptions,
    Preference,
    Profile,
    ProfileHistory,
    ServerInfo,
)

_RequestT = TypeVar("_RequestT")
_ResponseT = TypeVar("_ResponseT")


class AsyncGeneratorClient:
    """Asks a PAD server for text and keeps its users' profiles; for one event loop.

    A call that came to nothing because its server was gone, or going, is sent again within its
    timeout, to another server if there are several; an answer that has begun never is.

    Args:
        target: "host:port", or several of them, or an open aio channel, which then stays the
            caller's to close. A DNS name may stand for many servers; several must be IP addresses.
        credentials: for TLS; without them an address is called in the clear.
        metadata: sent with every call.
        timeout_s: how long a call may take where it does not say itself.
        access: keys for TLS from files, and an API token.
    """

    def __init__(
        self,
        target: str | Sequence[str] | grpc.aio.Channel,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        timeout_s: float = 60.0,
        **access: Unpack[AccessOptions],
    ) -> None:
        self._timeout_s = requests.check_timeout(timeout_s)
        self._budget = RetryBudget()
        self._is_closed = False
        self._access = Access(target, credentials, metadata, access)
        self._owned: grpc.aio.Channel | None = None
        if isinstance(target, str | Sequence):
            name = grpc_target(target)
            options = self._access.channel_options(requests.CHANNEL_OPTIONS)
            keys = self._access.credentials
            target = self._owned = (
                grpc.aio.insecure_channel(name, options=options)
                if keys is None
                else grpc.aio.secure_channel(name, keys, options=options)
            )
        self._generator = GeneratorServiceStub(target)
        self._profiles = ProfileServiceStub(target)

    def generate(
        self, *, timeout_s: float | None = None, **options: Unpack[GenerateOptions]
    ) -> AsyncTokenStream:
        """Start an answer and return the stream of its tokens."""
        request = requests.build_request(**options)
        trace = self._access.trace()  # of here, wherever the tokens are read

        def start(remaining_s: float) -> ResponseCall:
            return self._generator.Generate(
                request, timeout=remaining_s, metadata=self._access.metadata(trace)
            )

        return AsyncTokenStream(start, self._deadline(timeout_s), self._budget)

    async def complete(
        self, *, timeout_s: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """Return a whole answer."""
        request = generator_pb2.CompleteRequest(generation=requests.build_request(**options))
        response = await self._call(self._generator.Complete, request, timeout_s)
        return responses.read_completion(response)

    async def explain(
        self, *, timeout_s: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """Return a whole answer, and which preference changed which token: its `explanation`.

        With a stored profile the caller must be allowed to read profiles.
        """
        request = generator_pb2.ExplainPersonalizationRequest(
            generation=requests.build_request(**options)
        )
        response = await self._call(self._generator.ExplainPersonalization, request, timeout_s)
        return responses.read_completion(response)

    async def server_info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """Return what is being served, and its limits."""
        request = generator_pb2.GetServerInfoRequest()
        return responses.read_server_info(
            await self._call(self._generator.GetServerInfo, request, timeout_s)
        )

    async def put_profile(
        self,
        user_id: str,
        preferences: Sequence[str | Preference],
        *,
        beta: float | None = None,
        expected_revision: int | None = None,
        erase_history: bool = False,
        timeout_s: float | None = None,
    ) -> Profile:
        """Create or replace a profile.

        Args:
            user_id: The user.
            preferences: The wishes.
            beta: Guidance strength; None for the server's default.
            expected_revision: Only if this one is stored; 0: only create.
            erase_history: Leave no earlier revision, for what should not have been stored.
            timeout_s: How long it may take.
        """
        request = requests.put_profile_request(
            user_id,
            preferences,
            beta=beta,
            expected_revision=expected_revision,
            erase_history=erase_history,
        )
        response = await self._call(
            self._profiles.PutProfile, request, timeout_s, is_repeatable=False
        )
        return responses.read_profile(response.profile)

    async def get_profile(self, user_id: str, *, timeout_s: float | None = None) -> Profile:
        """Return the user's profile."""
        request = requests.get_profile_request(user_id)
        response = await self._call(self._profiles.GetProfile, request, timeout_s)
        return responses.read_profile(response.profile)

    async def delete_profile(
        self,
        user_id: str,
        *,
        expected_revision: int | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Erase the user's profile."""
        request = requests.delete_profile_request(user_id, expected_revision=expected_revision)
        await self._call(self._profiles.DeleteProfile, request, timeout_s, is_repeatable=False)

    async def profile_history(
        self, user_id: str, *, timeout_s: float | None = None
    ) -> ProfileHistory:
        """Return the revisions of the user's profile that are kept."""
        request = requests.profile_history_request(user_id)
        return responses.read_history(
            await self._call(self._profiles.ListProfileRevisions, request, timeout_s)
        )

    async def restore_profile(
        self,
        user_id: str,
        revision: int,
        *,
        expected_revision: int | None = None,
        timeout_s: float | None = None,
    ) -> Profile:
        """Write what an earlier revision said as a new one, and return that."""
        request = requests.restore_profile_request(
            user_id, revision, expected_revision=expected_revision
        )
        response = await self._call(
            self._profiles.RestoreProfile, request, timeout_s, is_repeatable=False
        )
        return responses.read_profile(response.profile)

    async def list_profiles(
        self, *, page_size: int = 100, timeout_s: float | None = None
    ) -> AsyncIterator[Profile]:
        """Yield all profiles by user id; `timeout_s` holds for each page.

        Raises:
            DamagedProfileError: After all others, if some cannot be read; it names their users.
        """
        page_token, damaged = "", list[str]()
        while True:
            request = requests.list_profiles_request(page_size, page_token)
            page = await self._call(self._profiles.ListProfiles, request, timeout_s)
            for profile in page.profiles:
                yield responses.read_profile(profile)
            damaged += page.damaged_user_ids
            page_token = page.next_page_token
            if not page_token:
                responses.check_damaged(damaged)
                return

    async def aclose(self) -> None:
        """Close the channel if this client opened it; its running calls are cancelled."""
        if self._owned is not None:
            self._is_closed = True
            await self._owned.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def _deadline(self, timeout_s: float | None) -> float:
        if self._is_closed:
            raise RuntimeError("the client is closed: open another, or close it later")
        return self._timeout_s if timeout_s is None else requests.check_timeout(timeout_s)

    async def _call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[_RequestT, _ResponseT]",
        request: _RequestT,
        timeout_s: float | None,
        *,
        is_repeatable: bool = True,
    ) -> _ResponseT:
        attempts = Attempts(self._deadline(timeout_s), self._budget, is_repeatable=is_repeatable)
        trace = self._access.trace()
        while True:
            try:
                return await method(
                    request, timeout=attempts.remaining_s, metadata=self._access.metadata(trace)
                )
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                raise RequestCancelledError(
                    "the client was closed", code=grpc.StatusCode.CANCELLED
                ) from None
            except grpc.RpcError as error:
                pause_s = attempts.pause_s(error)
                if pause_s is None:
                    raise error_from_rpc(error) from error
            await asyncio.sleep(pause_s)
