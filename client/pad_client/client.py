"""The client for threads: each method is one call, made by `requests` and read by `responses`."""

import time
from collections.abc import Iterator, Sequence
from typing import Self, TypeVar, Unpack

import grpc

from pad.v1 import generator_pb2
from pad.v1.generator_pb2_grpc import GeneratorServiceStub
from pad.v1.profile_pb2_grpc import ProfileServiceStub
from pad_client import requests, responses
from pad_client.access import Access, AccessOptions
from pad_client.addresses import grpc_target
from pad_client.errors import error_from_rpc
from pad_client.retries import Attempts, RetryBudget
from pad_client.token_stream import ResponseCall, TokenStream
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


class GeneratorClient:
    """Asks a PAD server for text and keeps its users' profiles; usable from many threads.

    A call that came to nothing because its server was gone, or going, is sent again within its
    timeout, to another server if there are several; an answer that has begun never is.

    Args:
        target: "host:port", or several of them, or an open channel, which then stays the caller's
            to close. A DNS name may stand for many servers; several must be IP addresses.
        credentials: for TLS; without them an address is called in the clear.
        metadata: sent with every call.
        timeout_s: how long a call may take where it does not say itself.
        access: keys for TLS from files, and an API token.
    """

    def __init__(
        self,
        target: str | Sequence[str] | grpc.Channel,
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
        self._owned: grpc.Channel | None = None
        if isinstance(target, str | Sequence):
            name = grpc_target(target)
            options = self._access.channel_options(requests.CHANNEL_OPTIONS)
            keys = self._access.credentials
            target = self._owned = (
                grpc.insecure_channel(name, options=options)
                if keys is None
                else grpc.secure_channel(name, keys, options=options)
            )
        self._generator = GeneratorServiceStub(target)
        self._profiles = ProfileServiceStub(target)

    def generate(
        self, *, timeout_s: float | None = None, **options: Unpack[GenerateOptions]
    ) -> TokenStream:
        """Start an answer and return the stream of its tokens."""
        request = requests.build_request(**options)
        trace = self._access.trace()  # of here, wherever the tokens are read

        def start(remaining_s: float) -> ResponseCall:
            return self._generator.Generate(
                request, timeout=remaining_s, metadata=self._access.metadata(trace)
            )

        return TokenStream(start, self._deadline(timeout_s), self._budget)

    def complete(
        self, *, timeout_s: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """Return a whole answer."""
        request = generator_pb2.CompleteRequest(generation=requests.build_request(**options))
        return responses.read_completion(self._call(self._generator.Complete, request, timeout_s))

    def explain(
        self, *, timeout_s: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """Return a whole answer, and which preference changed which token: its `explanation`.

        With a stored profile the caller must be allowed to read profiles.
        """
        request = generator_pb2.ExplainPersonalizationRequest(
            generation=requests.build_request(**options)
        )
        response = self._call(self._generator.ExplainPersonalization, request, timeout_s)
        return responses.read_completion(response)

    def server_info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """Return what is being served, and its limits."""
        request = generator_pb2.GetServerInfoRequest()
        return responses.read_server_info(
            self._call(self._generator.GetServerInfo, request, timeout_s)
        )

    def put_profile(
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
        return responses.read_profile(
            self._call(self._profiles.PutProfile, request, timeout_s, is_repeatable=False).profile
        )

    def get_profile(self, user_id: str, *, timeout_s: float | None = None) -> Profile:
        """Return the user's profile."""
        request = requests.get_profile_request(user_id)
        return responses.read_profile(
            self._call(self._profiles.GetProfile, request, timeout_s).profile
        )

    def delete_profile(
        self,
        user_id: str,
        *,
        expected_revision: int | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Erase the user's profile."""
        request = requests.delete_profile_request(user_id, expected_revision=expected_revision)
        self._call(self._profiles.DeleteProfile, request, timeout_s, is_repeatable=False)

    def profile_history(self, user_id: str, *, timeout_s: float | None = None) -> ProfileHistory:
        """Return the revisions of the user's profile that are kept."""
        request = requests.profile_history_request(user_id)
        return responses.read_history(
            self._call(self._profiles.ListProfileRevisions, request, timeout_s)
        )

    def restore_profile(
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
        response = self._call(
            self._profiles.RestoreProfile, request, timeout_s, is_repeatable=False
        )
        return responses.read_profile(response.profile)

    def list_profiles(
        self, *, page_size: int = 100, timeout_s: float | None = None
    ) -> Iterator[Profile]:
        """Yield all profiles by user id; `timeout_s` holds for each page.

        Raises:
            DamagedProfileError: After all others, if some cannot be read; it names their users.
        """
        page_token, damaged = "", list[str]()
        while True:
            request = requests.list_profiles_request(page_size, page_token)
            page = self._call(self._profiles.ListProfiles, request, timeout_s)
            yield from map(responses.read_profile, page.profiles)
            damaged += page.damaged_user_ids
            page_token = page.next_page_token
            if not page_token:
                responses.check_damaged(damaged)
                return

    def close(self) -> None:
        """Close the channel if this client opened it; its running calls are cancelled."""
        if self._owned is not None:
            self._is_closed = True
            self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _deadline(self, timeout_s: float | None) -> float:
        if self._is_closed:
            raise RuntimeError("the client is closed: open another, or close it later")
        return self._timeout_s if timeout_s is None else requests.check_timeout(timeout_s)

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_RequestT, _ResponseT]",
        request: _RequestT,
        timeout_s: float | None,
        *,
        is_repeatable: bool = True,
    ) -> _ResponseT:
        attempts = Attempts(self._deadline(timeout_s), self._budget, is_repeatable=is_repeatable)
        trace = self._access.trace()
        while True:
            try:
                return method(
                    request, timeout=attempts.remaining_s, metadata=self._access.metadata(trace)
                )
            except grpc.RpcError as error:
                pause_s = attempts.pause_s(error)
                if pause_s is None:
                    raise error_from_rpc(error) from error
            time.sleep(pause_s)
