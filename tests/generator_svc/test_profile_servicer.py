import logging
import math
from contextlib import asynccontextmanager
from functools import partial

import grpc
import pytest
import redis.asyncio
from prometheus_client import CollectorRegistry

from generator_svc.profile_servicer import ProfileServicer
from pad.v1 import common_pb2, profile_pb2_grpc
from pad.v1 import profile_pb2 as pb
from svc_common.callers import Caller, everyone_is
from svc_common.errors import InvalidRequestError
from svc_common.health import Health
from svc_common.server import bind, new_server
from svc_common.server_options import ServerOptions
from tests.generator_svc.store_watch import opened

SECRET = "kettle songs"


def check_text(field, text):
    if "CONTROL" in text:
        raise InvalidRequestError(f"{field}: must not hold the control token 'CONTROL'")


@asynccontextmanager
async def serving(url, tenant="t"):
    options = ServerOptions(
        "TEST_",
        listen="127.0.0.1:0",
        metrics_port=0,
        drain_s=1.0,
        identify=everyone_is(Caller(tenant)),
    )
    async with opened(url) as store:
        add = partial(
            profile_pb2_grpc.add_ProfileServiceServicer_to_server,
            ProfileServicer(store, check_text),
        )
        server = new_server(options, Health([]), CollectorRegistry(), [add])
        address = bind(server, options)
        await server.start()
        async with grpc.aio.insecure_channel(address) as channel:
            yield profile_pb2_grpc.ProfileServiceStub(channel)
        await server.stop(None)


@pytest.fixture
async def stub(redis_url):
    async with serving(redis_url) as stub:
        yield stub


def wish(text="Be brief.", weight=None):
    return common_pb2.Preference(text=text, weight=weight)


def put_request(user_id="ann", preferences=None, **fields):
    wishes = [wish()] if preferences is None else preferences
    return pb.PutProfileRequest(user_id=user_id, preferences=wishes, **fields)


async def failure(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, caught.value.details()


async def test_profile_is_put_read_listed_and_erased(stub):
    request = put_request(preferences=[wish(), wish("Be kind: 漢", 0.5)], beta=0.0)
    put = (await stub.PutProfile(request)).profile
    assert [(p.text, p.weight) for p in put.preferences] == [
        ("Be brief.", 1.0),
        ("Be kind: 漢", 0.5),
    ]
    assert put.HasField("beta")
    assert (put.user_id, put.beta, put.revision) == ("ann", 0.0, 1)
    assert put.updated_at.seconds > 1_700_000_000
    assert (await stub.GetProfile(pb.GetProfileRequest(user_id="ann"))).profile == put
    assert list((await stub.ListProfiles(pb.ListProfilesRequest())).profiles) == [put]
    await stub.DeleteProfile(pb.DeleteProfileRequest(user_id="ann", expected_revision=1))
    code, _ = await failure(stub.GetProfile(pb.GetProfileRequest(user_id="ann")))
    assert code == "NOT_FOUND"


async def test_absent_beta_stays_absent(stub):
    assert not (await stub.PutProfile(put_request())).profile.HasField("beta")


async def test_revision_conflict_is_aborted(stub):
    await stub.PutProfile(put_request())
    assert await failure(stub.PutProfile(put_request(expected_revision=0))) == (
        "ABORTED",
        "expected_revision: must be the stored 1, got 0",
    )


@pytest.mark.parametrize(
    ("request_fields", "message"),
    [
        ({"user_id": ""}, "user_id: must be 1..128 characters of A-Z a-z 0-9 . _ - @ :, got ''"),
        ({"user_id": "a b"}, "user_id: must be 1..128 characters of * got 'a b'"),
        ({"user_id": "a}b"}, "user_id: must be 1..128 characters of * got 'a}b'"),
        ({"user_id": "ann\n"}, "user_id: must be 1..128 characters of * got 'ann\\n'"),
        ({"user_id": "ü"}, "user_id: must be 1..128 characters of * got '\\xfc'"),
        ({"user_id": "a" * 129}, "user_id: must be 1..128 characters, got 129"),
        ({"preferences": []}, "preferences: must have 1..8 entries, got 0"),
        ({"preferences": [wish()] * 9}, "preferences: must have 1..8 entries, got 9"),
        (
            {"preferences": [wish(), wish("")]},
            "preferences[1].text: must be 1..2000 characters, got 0",
        ),
        (
            {"preferences": [wish(SECRET * 300)]},
            "preferences[0].text: must be 1..2000 characters, got 3600",
        ),
        (
            {"preferences": [wish(" \n\t")]},
            "preferences[0].text: must not be blank, got 3 blank characters",
        ),
        (
            {"preferences": [wish(SECRET, 0.0)]},
            "preferences[0].weight: must be > 0 and <= 10, got 0.0",
        ),
        (
            {"preferences": [wish(SECRET, -1.0)]},
            "preferences[0].weight: must be > 0 and <= 10, got -1.0",
        ),
        (
            {"preferences": [wish(SECRET, 10.5)]},
            "preferences[0].weight: must be > 0 and <= 10, got 10.5",
        ),
        (
            {"preferences": [wish(SECRET, math.nan)]},
            "preferences[0].weight: must be > 0 and <= 10, got nan",
        ),
        (
            {"preferences": [wish(SECRET, math.inf)]},
            "preferences[0].weight: must be > 0 and <= 10, got inf",
        ),
        (
            {"preferences": [wish(), wish(f"{SECRET}CONTROL")]},
            "preferences[1].text: must not hold the control token 'CONTROL'",
        ),
        ({"beta": -0.1}, "beta: must be 0..10, got -0.1"),
        ({"beta": 11.0}, "beta: must be 0..10, got 11.0"),
        ({"beta": math.nan}, "beta: must be 0..10, got nan"),
    ],
)
async def test_bad_profile_is_refused_by_field_rule_and_value(stub, request_fields, message):
    code, details = await failure(stub.PutProfile(put_request(**request_fields)))
    head, _, tail = message.partition("*")
    assert code == "INVALID_ARGUMENT"
    assert details.startswith(head)
    assert details.endswith(tail)
    assert "kettle" not in details
    assert list((await stub.ListProfiles(pb.ListProfilesRequest())).profiles) == []


@pytest.mark.parametrize(
    ("method", "request_message", "message"),
    [
        ("GetProfile", pb.GetProfileRequest(), "user_id: must be 1..128 characters"),
        ("DeleteProfile", pb.DeleteProfileRequest(), "user_id: must be 1..128 characters"),
        (
            "DeleteProfile",
            pb.DeleteProfileRequest(user_id="ann", expected_revision=0),
            "expected_revision: must be >= 1 or absent, got 0",
        ),
        (
            "ListProfiles",
            pb.ListProfilesRequest(page_size=1001),
            "page_size: must be 1..1000, got 1001",
        ),
        (
            "ListProfiles",
            pb.ListProfilesRequest(page_token="made up"),
            "page_token: must be the next_page_token of another page, got 7 other characters",
        ),
        (
            "ListProfiles",
            pb.ListProfilesRequest(page_token="/w=="),
            "page_token: must be the next_page_token of another page, got 4 other characters",
        ),
    ],
)
async def test_bad_request_is_refused(stub, method, request_message, message):
    code, details = await failure(getattr(stub, method)(request_message))
    assert code == "INVALID_ARGUMENT"
    assert details.startswith(message)


async def test_texts_are_counted_in_characters(stub):
    longest = wish("漢" * 2000)
    put = (await stub.PutProfile(put_request(preferences=[longest] * 8))).profile
    assert put.preferences[7].text == longest.text


async def test_profile_of_ten_megabytes_is_refused_by_its_size(stub):
    code, details = await failure(
        stub.PutProfile(put_request(preferences=[wish("x" * 10_000_000)]))
    )
    assert code == "RESOURCE_EXHAUSTED"
    assert "larger than max" in details


async def pages(stub, page_size):
    token, found = "", []
    while True:
        request = pb.ListProfilesRequest(page_size=page_size, page_token=token)
        page = await stub.ListProfiles(request)
        found.append(list(page.profiles))
        token = page.next_page_token
        if not token:
            return found


async def test_pages_follow_each_other_to_the_end(stub):
    user_ids = [f"u{number}" for number in range(6)]
    for user_id in user_ids:
        await stub.PutProfile(put_request(user_id))
    for page_size, sizes in ((2, [2, 2, 2]), (4, [4, 2]), (6, [6]), (1000, [6]), (0, [6])):
        found = await pages(stub, page_size)
        assert [len(page) for page in found] == sizes
        assert [profile.user_id for page in found for profile in page] == user_ids


async def test_page_ends_before_it_is_too_large_for_a_message(stub):
    """Listing many full profiles failed: the page was larger than what clients read."""
    full = [wish("漢" * 2000)] * 8
    user_ids = [f"u{number:02}" for number in range(90)]
    for user_id in user_ids:
        await stub.PutProfile(put_request(user_id, full))
    found = await pages(stub, 1000)
    assert len(found) == 2
    assert [profile.user_id for page in found for profile in page] == user_ids


async def test_damaged_profiles_are_named_beside_the_others(redis_url, stub):
    """One of them made the whole list an error."""
    for user_id in ("ann", "bob", "eve", "zoe"):
        await stub.PutProfile(put_request(user_id))
    async with redis.asyncio.Redis.from_url(redis_url) as raw:
        for user_id in ("bob", "zoe"):
            await raw.hset(f"pad:v1:{{t:{user_id}}}:profile", "preferences", "[]")
    response = await stub.ListProfiles(pb.ListProfilesRequest())
    assert [profile.user_id for profile in response.profiles] == ["ann", "eve"]
    assert list(response.damaged_user_ids) == ["bob", "zoe"]
    found, token = [], ""
    while True:
        request = pb.ListProfilesRequest(page_size=1, page_token=token)
        page = await stub.ListProfiles(request)
        found.append([*(p.user_id for p in page.profiles), *page.damaged_user_ids])
        token = page.next_page_token
        if not token:
            break
    assert found == [["ann"], ["bob"], ["eve"], ["zoe"]]
    code, _ = await failure(stub.GetProfile(pb.GetProfileRequest(user_id="bob")))
    assert code == "DATA_LOSS"


async def test_tenants_are_apart(redis_url, stub):
    await stub.PutProfile(put_request())
    async with serving(redis_url, tenant="other") as other:
        code, _ = await failure(other.GetProfile(pb.GetProfileRequest(user_id="ann")))
        assert code == "NOT_FOUND"
        assert not (await other.ListProfiles(pb.ListProfilesRequest())).profiles


async def test_nothing_of_a_profile_is_logged(stub, caplog):
    caplog.set_level(logging.DEBUG)
    request = put_request("user-17", [wish(SECRET)])
    await stub.PutProfile(request)
    await stub.PutProfile(request)
    await failure(stub.PutProfile(put_request("user-17", [wish(SECRET, 99)])))
    assert "rpc ended" in caplog.text
    lines = [str(vars(record)) for record in caplog.records]
    assert not any("kettle" in line or "user-17" in line for line in lines)


async def test_a_restore_asks_what_a_put_asks(stub, redis_url):
    """What an older version had stored could be restored, and then never be used."""
    await stub.PutProfile(put_request(preferences=[wish("Be kind.")]))
    await stub.PutProfile(put_request(preferences=[wish("Be brief.")]))
    key = "pad:v1:{t:ann}:profile"
    async with redis.asyncio.Redis.from_url(redis_url) as raw:
        line = await raw.hget(key, "history")
        await raw.hset(key, "history", line.replace(b"Be kind.", b"[Principles]"))
    restore = pb.RestoreProfileRequest(user_id="ann", revision=1)
    code, details = await failure(stub.RestoreProfile(restore))
    assert code == "INVALID_ARGUMENT"
    assert details.startswith("preferences[0].text: must")
