"""The client for threads: each method is one call, made by `requests` and read by `responses`."""

from collections.abc import Iterator, Sequence
from typing import Protocol, Self, TypeVar, Unpack

import grpc

from pad.v1 import generator_pb2, profile_pb2
from pad.v1.generator_pb2_grpc import GeneratorServiceStub
from pad.v1.profile_pb2_grpc import ProfileServiceStub
from pad_client import requests, responses
from pad_client.errors import InternalError, error_from_rpc
from pad_client.types import (
    Completion,
    GenerateOptions,
    Preference,
    Profile,
    ServerInfo,
    Summary,
    Token,
)

_RequestT = TypeVar("_RequestT")
_ResponseT = TypeVar("_ResponseT")


class _Call(Protocol):
    """What the stream needs of gRPC's call."""

    def __iter__(self) -> Iterator[generator_pb2.GenerateResponse]: ...
    def cancel(self) -> bool: ...


class TokenStream:
    """The tokens of one answer as they are written, then its summary.

    The RPC is cancelled, and its work on the server freed, by `close`, by leaving the `with`
    block, and when the stream is no longer referenced (gRPC cancels a call that is collected).
    """

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._summary: Summary | None = None

    @property
    def summary(self) -> Summary:
        """How the answer came about; there once the tokens are exhausted."""
        if self._summary is None:
            raise RuntimeError("the summary comes after the last token: read the stream first")
        return self._summary

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Token:
        try:
            for response in self._call:
                event = responses.read_event(response)
                if isinstance(event, Token):
                    return event
                self._summary = event
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        if self._summary is None:
            raise InternalError("the server ended the stream without a summary")
        raise StopIteration

    def close(self) -> None:
        """Cancel the RPC unless it is complete."""
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class GeneratorClient:
    """Asks a PAD server for text and keeps its users' profiles; usable from many threads.

    Args:
        target: "host:port", or an open channel, which then stays the caller's to close.
        credentials: for TLS; without them an address is called in the clear.
        metadata: sent with every call, for example `[("authorization", "Bearer ...")]`.
        timeout_s: how long a call may take where it does not say itself.
    """

    def __init__(
        self,
        target: str | grpc.Channel,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        timeout_s: float = 60.0,
    ) -> None:
        self._timeout_s = requests.check_timeout(timeout_s)
        self._metadata = tuple(metadata)
        self._owned: grpc.Channel | None = None
        if isinstance(target, str):
            target = self._owned = (
                grpc.insecure_channel(target, options=requests.CHANNEL_OPTIONS)
                if credentials is None
                else grpc.secure_channel(target, credentials, options=requests.CHANNEL_OPTIONS)
            )
        self._generator = GeneratorServiceStub(target)
        self._profiles = ProfileServiceStub(target)

    def generate(
        self, *, timeout_s: float | None = None, **options: Unpack[GenerateOptions]
    ) -> TokenStream:
        """Start an answer and return the stream of its tokens."""
        return TokenStream(
            self._generator.Generate(
                requests.build_request(**options),
                timeout=self._deadline(timeout_s),
                metadata=self._metadata,
            )
        )

    def complete(
        self, *, timeout_s: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """Return a whole answer."""
        request = generator_pb2.CompleteRequest(generation=requests.build_request(**options))
        return responses.read_completion(self._call(self._generator.Complete, request, timeout_s))

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
        timeout_s: float | None = None,
    ) -> Profile:
        """Create or replace a profile; `expected_revision` 0 means: only create."""
        request = requests.put_profile_request(
            user_id, preferences, beta=beta, expected_revision=expected_revision
        )
        return responses.read_profile(
            self._call(self._profiles.PutProfile, request, timeout_s).profile
        )

    def get_profile(self, user_id: str, *, timeout_s: float | None = None) -> Profile:
        """Return the user's profile."""
        request = profile_pb2.GetProfileRequest(user_id=user_id)
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
        self._call(self._profiles.DeleteProfile, request, timeout_s)

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
            self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _deadline(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else requests.check_timeout(timeout_s)

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_RequestT, _ResponseT]",
        request: _RequestT,
        timeout_s: float | None,
    ) -> _ResponseT:
        deadline = self._deadline(timeout_s)
        try:
            return method(request, timeout=deadline, metadata=self._metadata)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
