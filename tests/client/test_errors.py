"""What callers catch: each status as its error, with what it says to do."""

import asyncio
from typing import Any

import grpc
import pytest

import pad_client
from pad_client import GeneratorClient
from pad_client.errors import error_from_status
from tests.client.fake_server import Failure, FakeServer

STATUSES = [
    ("INVALID_ARGUMENT", pad_client.InvalidRequestError, False),
    ("NOT_FOUND", pad_client.NotFoundError, False),
    ("ABORTED", pad_client.ConflictError, False),
    ("FAILED_PRECONDITION", pad_client.ModelMismatchError, False),
    ("UNAUTHENTICATED", pad_client.AccessDeniedError, False),
    ("PERMISSION_DENIED", pad_client.AccessDeniedError, False),
    ("RESOURCE_EXHAUSTED", pad_client.MessageTooLargeError, False),
    ("DATA_LOSS", pad_client.DamagedProfileError, False),
    ("UNAVAILABLE", pad_client.UnavailableError, True),
    ("DEADLINE_EXCEEDED", pad_client.DeadlineExceededError, False),
    ("CANCELLED", pad_client.RequestCancelledError, False),
    ("INTERNAL", pad_client.InternalError, False),
    ("UNIMPLEMENTED", pad_client.PadError, False),
]


@pytest.mark.parametrize(("status", "kind", "is_retryable"), STATUSES)
async def test_status_becomes_its_error(
    client: Any, fake: FakeServer, status: str, kind: type[Exception], is_retryable: bool
) -> None:
    fake.failure = Failure(grpc.StatusCode[status], "beta: must be 0..10, got 11")
    for call in (
        client.complete(prompt="Hi"),
        anext(client.generate(prompt="Hi")),
        client.get_profile("alice"),
    ):
        with pytest.raises(pad_client.PadError) as caught:
            await call
        assert type(caught.value) is kind
        assert caught.value.code is grpc.StatusCode[status]
        assert caught.value.message == str(caught.value) == "beta: must be 0..10, got 11"
        assert caught.value.retryable is is_retryable
        assert caught.value.retry_after_s is None


async def test_retry_delay_is_read_from_the_trailing_metadata(
    client: Any, fake: FakeServer
) -> None:
    fake.failure = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue: full", pushback_ms="1500")
    for call in (client.complete(prompt="Hi"), anext(client.generate(prompt="Hi"))):
        with pytest.raises(pad_client.OverloadedError) as caught:
            await call
        assert (caught.value.retryable, caught.value.retry_after_s) == (True, 1.5)


@pytest.mark.parametrize("value", ["-1", "soon"])
def test_pushback_that_is_negative_or_unreadable_forbids_a_retry(value: str) -> None:
    error = error_from_status(grpc.StatusCode.UNAVAILABLE, "", [("grpc-retry-pushback-ms", value)])
    assert (error.retryable, error.retry_after_s, error.message) == (False, None, "UNAVAILABLE")


async def test_server_that_is_not_there_is_unavailable_with_a_hint() -> None:
    with (
        GeneratorClient("127.0.0.1:1") as client,
        pytest.raises(pad_client.UnavailableError) as caught,
    ):
        await asyncio.to_thread(client.server_info)
    assert "pad up" in caught.value.hint


async def test_message_that_is_too_large_is_not_called_an_overload(client: Any) -> None:
    """gRPC refuses it with the status of an overload; waiting and trying again cannot help."""
    for call in (
        client.complete(prompt="x" * 5_000_000),
        anext(client.generate(prompt="x" * 5_000_000)),
        client.put_profile("alice", ["x" * 5_000_000]),
    ):
        with pytest.raises(pad_client.InvalidRequestError, match="larger than max") as caught:
            await call
        assert type(caught.value) is pad_client.MessageTooLargeError
        assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (caught.value.retryable, caught.value.hint) == (False, "send less text")


def test_hints_fit_every_call_that_fails_so() -> None:
    """They told who deleted a profile to create it first, or to write with its new revision."""
    not_found, conflict = pad_client.NotFoundError.hint, pad_client.ConflictError.hint
    assert "first" not in not_found
    assert "preferences" not in not_found
    assert "write" not in conflict
    assert pad_client.DamagedProfileError.hint == "write the profile again"
