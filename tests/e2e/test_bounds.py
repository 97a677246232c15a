"""Every field of every request has a bound, and says so: field, rule and value."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from pad.v1 import generator_pb2, generator_pb2_grpc, profile_pb2, profile_pb2_grpc, reward_pb2
from pad.v1 import reward_pb2_grpc as rewards_grpc
from pad_client.embedded import EmbeddedStack
from svc_common.lm.tokenizer import load_tokenizer
from tests.e2e import bounds
from tests.e2e.bounds import Bound

# A revision is compared, a fingerprint names another model: neither is a bad request as such.
OTHER_CODES = {
    "PutProfileRequest.expected_revision": grpc.StatusCode.ABORTED,
    "ScoreSequencesRequest.tokenizer_fingerprint": grpc.StatusCode.FAILED_PRECONDITION,
}
TABLE: list[tuple[str, Bound]] = [
    *(("Complete", bound) for bound in bounds.GENERATE),
    *(("PutProfile", bound) for bound in bounds.PUT),
    *(("GetProfile", bound) for bound in bounds.GET),
    *(("DeleteProfile", bound) for bound in bounds.DELETE),
    *(("ListProfiles", bound) for bound in bounds.LIST),
    *(("ListProfileRevisions", bound) for bound in bounds.REVISIONS),
    *(("RestoreProfile", bound) for bound in bounds.RESTORE),
    *(("ScoreSequences", bound) for bound in bounds.SCORE_SEQUENCES),
    *(("EncodePreference", bound) for bound in bounds.ENCODE),
    *(("Forget", bound) for bound in bounds.FORGET),
]


@pytest.fixture(scope="module")
def call(stack: EmbeddedStack, models_dir: Path) -> Iterator[Callable[[str, Bound, int], object]]:
    """Send a valid request of a method with one field changed."""
    fingerprint = load_tokenizer(models_dir / "demo-persrm").fingerprint
    with (
        grpc.insecure_channel(stack.address) as channel,
        grpc.insecure_channel(stack.addresses["reward-0"]) as reward_channel,
    ):
        generator = generator_pb2_grpc.GeneratorServiceStub(channel)
        profiles = profile_pb2_grpc.ProfileServiceStub(channel)
        rewards = rewards_grpc.RewardServiceStub(reward_channel)
        profiles.PutProfile(bounds.profile())

        def send(method: str, bound: Bound, value: int) -> object:
            plain: dict[str, tuple[Any, Any]] = {
                "Complete": (generator.Complete, bounds.generation()),
                "PutProfile": (profiles.PutProfile, bounds.profile()),
                "GetProfile": (profiles.GetProfile, profile_pb2.GetProfileRequest()),
                "DeleteProfile": (
                    profiles.DeleteProfile,
                    profile_pb2.DeleteProfileRequest(user_id="nobody"),
                ),
                "ListProfiles": (profiles.ListProfiles, profile_pb2.ListProfilesRequest()),
                "ListProfileRevisions": (
                    profiles.ListProfileRevisions,
                    profile_pb2.ListProfileRevisionsRequest(),
                ),
                "RestoreProfile": (
                    profiles.RestoreProfile,
                    profile_pb2.RestoreProfileRequest(user_id="nobody", revision=1),
                ),
                "ScoreSequences": (rewards.ScoreSequences, bounds.scoring(fingerprint)),
                "EncodePreference": (rewards.EncodePreference, bounds.preference()),
                "Forget": (rewards.Forget, reward_pb2.ForgetRequest()),
            }
            method_call, request = plain[method]
            bound.change(request, value)
            if method == "Complete":
                request = generator_pb2.CompleteRequest(generation=request)
            return method_call(request, timeout=60)

        yield send


@pytest.mark.parametrize(
    ("method", "bound"), TABLE, ids=[f"{m}-{b.field}-{b.breaks}" for m, b in TABLE]
)
def test_a_field_is_taken_up_to_its_bound_and_refused_beyond(
    call: Callable[[str, Bound, int], object], method: str, bound: Bound
) -> None:
    if bound.fits is not None:
        call(method, bound, bound.fits)
    if not bound.message:
        return
    with pytest.raises(grpc.RpcError) as caught:
        call(method, bound, bound.breaks)
    error: Any = caught.value
    wanted = OTHER_CODES.get(bound.field, grpc.StatusCode.INVALID_ARGUMENT)
    assert (error.code(), error.details()[: len(bound.message)]) == (wanted, bound.message)
    assert len(error.details()) < 250  # however long the value was


def test_no_field_of_any_request_is_without_a_bound() -> None:
    """A field that is added to a request needs its line in the table."""
    covered = {bound.field for _, bound in TABLE} | bounds.FREE | bounds.ROWS
    fields = {name for message in bounds.REQUESTS for name in _leaves(message.DESCRIPTOR)}
    assert fields == covered


def _leaves(message: Descriptor) -> Iterator[str]:
    for field in message.fields:
        is_message = field.type == FieldDescriptor.TYPE_MESSAGE
        if not is_message or field.is_repeated:
            yield f"{message.name}.{field.name}"
        if is_message:
            yield from _leaves(field.message_type)


@pytest.mark.parametrize(("name", "size"), [("generator", 1 << 20), ("reward-0", 4 << 20)])
def test_a_message_larger_than_the_setting_is_not_read(
    stack: EmbeddedStack, name: str, size: int
) -> None:
    method = {
        "generator": "/pad.v1.GeneratorService/Complete",
        "reward-0": "/pad.v1.RewardService/EncodePreference",
    }[name]
    with grpc.insecure_channel(stack.addresses[name]) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(method)(b"\x0a" + b"x" * size)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in error.details()


@pytest.mark.parametrize("name", ["generator", "reward-0"])
def test_a_message_that_grows_on_unpacking_is_not_unpacked(stack: EmbeddedStack, name: str) -> None:
    """A megabyte of gzip can hold a gigabyte."""
    bomb = b"x" * (256 << 20)
    assert len(gzip.compress(bomb[: 1 << 20], 9)) < 5000
    method = "/pad.v1.GeneratorService/GetServerInfo"
    if name != "generator":
        method = "/pad.v1.RewardService/GetServerInfo"
    before = _resident_bytes(stack.pids[name])
    with grpc.insecure_channel(
        stack.addresses[name], options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(method)(bomb, compression=grpc.Compression.Gzip)
        error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in error.details()
    assert _resident_bytes(stack.pids[name]) - before < 64 << 20


def _resident_bytes(pid: int) -> int:
    """Return the largest amount of memory that a process ever held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) * 1024


def test_metadata_beyond_grpcs_own_bound_is_refused(stack: EmbeddedStack) -> None:
    with grpc.insecure_channel(stack.address) as channel:
        generator = generator_pb2_grpc.GeneratorServiceStub(channel)
        generator.GetServerInfo(generator_pb2.GetServerInfoRequest(), metadata=[("x", "y" * 4000)])
        with pytest.raises(grpc.RpcError) as caught:
            generator.GetServerInfo(
                generator_pb2.GetServerInfoRequest(), metadata=[("x", "y" * 100_000)]
            )
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
