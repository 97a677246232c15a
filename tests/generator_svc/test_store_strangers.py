"""Whatever a stranger writes to our keys in Redis: one user's loss, and nobody else's."""

import json
import sys

import pytest
import redis.asyncio

from generator_svc.profile_scripts import MAX_PREFERENCES_BYTES
from generator_svc.profiles import DamagedProfile, Preference, StoreOptions
from svc_common.errors import ProfileDamagedError, ProfileNotFoundError
from svc_common.preference_rules import MAX_PREFERENCES, MAX_TEXT_CHARACTERS
from tests.generator_svc.store_watch import opened
from tests.generator_svc.test_profiles import BRIEF, KIND

KEY = "pad:v1:{t:ann}:profile"
DAMAGES = {
    "no schema": {"schema": None},
    "huge schema": {"schema": "1" * 1_000_000},
    "bytes": {"preferences": b"\xff\xfe"},
    "huge text": {"preferences": json.dumps([["x" * 10_000_000, 1.0]])},
    "deep": {"preferences": "[" * 100_000},
    "deep and closed": {"preferences": "[" * 50_000 + "]" * 50_000},
    "none": {"preferences": "[]"},
    "nine": {"preferences": json.dumps([["x", 1.0]] * 9)},
    "long text": {"preferences": json.dumps([["x" * 2001, 1.0]])},
    "blank": {"preferences": json.dumps([[" ", 1.0]])},
    "half a character": {"preferences": '[["\\ud800", 1.0]]'},
    "an object": {"preferences": '{"x": 1}'},
    "a triple": {"preferences": '[["x", 1.0, 2]]'},
    "nan": {"preferences": '[["x", NaN]]'},
    "infinite": {"preferences": '[["x", 1e999]]'},
    "negative": {"preferences": '[["x", -1]]'},
    "a text weight": {"preferences": '[["x", "much"]]'},
    "huge number": {"preferences": f'[["x", {"9" * 10_000}]]'},
    "beta nan": {"beta": "nan"},
    "beta large": {"beta": "11"},
    "revision 0": {"revision": "0"},
    "revision negative": {"revision": "-1"},
    "revision huge": {"revision": "9" * 40},
    "revision float": {"revision": "1e300"},
    "time nan": {"updated_at": "nan"},
    "time huge": {"updated_at": "1e300"},
    "time negative": {"updated_at": "-5"},
}


@pytest.fixture
async def raw(redis_url):
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        yield client


# As in production: a value of any size must not be waited for.
@pytest.fixture
async def store(redis_url):
    async with opened(redis_url, StoreOptions(timeout_s=2.0, quick_s=2.0)) as store:
        yield store


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_damaged_profile_is_its_users_loss_alone(store, raw, damage):
    profile = await store.put("t", "bob", KIND, None)
    await store.put("t", "ann", BRIEF, 0.5)
    for field, value in damage.items():
        if value is None:
            await raw.hdel(KEY, field)
        else:
            await raw.hset(KEY, field, value)
    for read in (store.get, store.load):
        with pytest.raises(ProfileDamagedError, match="stored profile of 'ann' is damaged"):
            await read("t", "ann")
    assert "damaged" in store.sources
    assert await store.get("t", "bob") == profile
    assert await store.list_profiles("t", 10) == [DamagedProfile("ann"), profile]
    repaired = await store.put("t", "ann", BRIEF, None)
    assert await store.get("t", "ann") == repaired
    assert repaired.revision in (1, 2)
    for field, value in damage.items():
        await (raw.hdel(KEY, field) if value is None else raw.hset(KEY, field, value))
    await store.delete("t", "ann")
    assert await raw.exists(KEY) == 0
    assert await store.list_profiles("t", 10) == [profile]
    assert store.watch.failures == []


async def test_a_hash_with_many_other_fields_holds_nobody_up(store, raw):
    profile = await store.put("t", "ann", BRIEF, None)
    for start in range(0, 200_000, 50_000):
        await raw.hset(KEY, mapping={f"f{i}": "" for i in range(start, start + 50_000)})
    assert await store.get("t", "ann") == profile
    await store.delete("t", "ann")
    assert store.watch.failures == []


async def test_the_largest_profile_fits(store):
    widest = "\N{GRINNING FACE}" * MAX_TEXT_CHARACTERS
    preferences = tuple(
        Preference(widest[:-1] + str(number), 0.1 + sys.float_info.epsilon)
        for number in range(MAX_PREFERENCES)
    )
    put = await store.put("t", "a" * 128, preferences, 9.999999999999998)
    assert await store.get("t", "a" * 128) == put
    stored = json.dumps([[one.text, one.weight] for one in preferences])
    assert len(stored) < MAX_PREFERENCES_BYTES


@pytest.mark.parametrize("command", ["set", "rpush", "sadd"])
async def test_profile_of_another_type_is_damaged_and_can_be_repaired(store, raw, command):
    for repair in (lambda: store.put("t", "ann", BRIEF, None), lambda: store.delete("t", "ann")):
        await raw.delete(KEY)
        await getattr(raw, command)(KEY, "x")
        await raw.zadd("pad:v1:{t}:users", {"ann": 0})
        with pytest.raises(ProfileDamagedError):
            await store.load("t", "ann")
        assert await store.list_profiles("t", 10) == [DamagedProfile("ann")]
        await repair()
        assert DamagedProfile("ann") not in await store.list_profiles("t", 10)


@pytest.mark.parametrize("tombstone", ["1e300", "-4", "x", "9" * 30, "x" * 10_000_000, ["list"]])
async def test_damaged_tombstone_counts_for_nothing(store, raw, tombstone):
    """A tombstone of another type made every write of the user an internal error."""
    key = "pad:v1:{t:ann}:tombstone"
    await (raw.rpush(key, *tombstone) if isinstance(tombstone, list) else raw.set(key, tombstone))
    assert (await store.put("t", "ann", BRIEF, None, expected_revision=0)).revision == 1


async def test_damaged_index_leaves_profiles_to_be_read_and_says_what_is_wrong(store, raw):
    """It made every write and list of the tenant an internal error."""
    profile = await store.put("t", "ann", BRIEF, None)
    await raw.set("pad:v1:{t}:users", "no set")
    for call in (
        store.put("t", "bob", BRIEF, None),
        store.list_profiles("t", 10),
        store.delete("t", "ann"),
    ):
        with pytest.raises(ProfileDamagedError, match="list of users of 't' is damaged"):
            await call
    with pytest.raises(ProfileNotFoundError):  # erased all the same
        await store.get("t", "ann")
    assert (await store.put("u", "ann", BRIEF, None)).revision == profile.revision


async def test_strange_members_of_the_index_are_no_users(store, raw):
    profiles = [await store.put("t", user_id, BRIEF, None) for user_id in ("ann", "bob", "zoe")]
    strange = [b"\xff\xfe", b"b\xc3", b"a" * 10_000, b"", "漢".encode(), b"a b}", b"zz" * 50]
    await raw.zadd("pad:v1:{t}:users", dict.fromkeys(strange, 0))
    assert await store.list_profiles("t", 10) == profiles
    for size in (1, 2):
        found, after = [], ""
        while page := await store.list_profiles("t", size, after):
            found += page
            after = page[-1].user_id
        assert found == profiles


async def test_huge_encodings_are_as_good_as_none(store, raw):
    await store.put_encoding("t", "v1", "x", b"y")
    (key,) = await raw.keys("pad:v1:enc:*")
    await raw.hset(key, "v1", b"z" * 20_000_000)
    assert await store.get_encodings("t", "v1", ["x"]) == {}
    assert store.watch.failures == []
