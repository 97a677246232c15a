import asyncio

import pytest

from generator_svc.profiles import DamagedProfile, Preference, Profile
from svc_common.errors import ProfileConflictError, ProfileDamagedError, ProfileNotFoundError
from tests.generator_svc.store_watch import PATIENT, administered, all_keys, opened

BRIEF = (Preference("Be brief.", 1.0),)
KIND = (Preference("Be kind: ü 漢 \n", 0.25), Preference("Use lists.", 10.0))


@pytest.fixture
async def store(store_url):
    async with opened(store_url) as store:
        yield store


@pytest.fixture
async def raw(store_url):
    async with administered(store_url) as client:
        yield client


async def test_what_is_put_is_read_back(store):
    put = await store.put("t", "ann", KIND, 0.5)
    assert put == Profile("ann", KIND, 0.5, revision=1, updated_at=put.updated_at)
    assert await store.get("t", "ann") == put
    assert await store.load("t", "ann") == put


async def test_beta_may_be_left_to_the_server(store):
    await store.put("t", "ann", BRIEF, 0.0)
    assert (await store.get("t", "ann")).beta == 0.0
    await store.put("t", "ann", BRIEF, None)
    assert (await store.get("t", "ann")).beta is None


async def test_user_without_profile_is_not_found(store):
    for read in (store.get, store.load, store.delete):
        with pytest.raises(ProfileNotFoundError, match="must have a profile, got 'ann'"):
            await read("t", "ann")


async def test_tenants_do_not_see_each_other(store):
    await store.put("t", "ann", BRIEF, None)
    with pytest.raises(ProfileNotFoundError):
        await store.get("u", "ann")
    assert await store.list_profiles("u", 10) == []


async def test_write_against_another_revision_conflicts_and_changes_nothing(store):
    await store.put("t", "ann", BRIEF, None, expected_revision=0)
    second = await store.put("t", "ann", KIND, None, expected_revision=1)
    for stale in (0, 1, 3, 2**64 - 1):
        message = f"must be the stored 2, got {stale}"
        with pytest.raises(ProfileConflictError, match=message):
            await store.put("t", "ann", BRIEF, None, expected_revision=stale)
    with pytest.raises(ProfileConflictError, match="must be the stored 2, got 1"):
        await store.delete("t", "ann", expected_revision=1)
    assert await store.get("t", "ann") == second


async def test_refused_creation_leaves_no_trace(store, raw):
    with pytest.raises(ProfileConflictError, match="must be the stored 0, got 4"):
        await store.put("t", "ann", BRIEF, None, expected_revision=4)
    assert await all_keys(raw) == []


async def test_two_writers_never_lose_an_update(store_url):
    async def add_texts(store, name):
        for number in range(20):
            while True:
                old = await store.get("t", "ann")
                texts = old.preferences[0].text + f" {name}{number}"
                try:
                    await store.put("t", "ann", (Preference(texts, 1.0),), None, old.revision)
                    break
                except ProfileConflictError:
                    continue

    async with opened(store_url) as one, opened(store_url) as two:
        await one.put("t", "ann", (Preference("start", 1.0),), None)
        await asyncio.gather(add_texts(one, "a"), add_texts(two, "b"))
        profile = await one.get("t", "ann")
    written = {f"{name}{number}" for name in "ab" for number in range(20)}
    assert set(profile.preferences[0].text.split()) == {"start"} | written
    assert profile.revision == 41


async def test_writer_who_read_a_deleted_profile_does_not_win_over_its_successor(store):
    await store.put("t", "ann", BRIEF, None)
    await store.delete("t", "ann", expected_revision=1)
    with pytest.raises(ProfileConflictError, match="must be the stored 0, got 1"):
        await store.put("t", "ann", BRIEF, None, expected_revision=1)
    again = await store.put("t", "ann", KIND, None, expected_revision=0)
    assert again.revision == 2
    with pytest.raises(ProfileConflictError):
        await store.put("t", "ann", BRIEF, None, expected_revision=1)


async def test_pages_are_in_the_order_of_ids_and_skip_who_has_no_profile(store, raw):
    user_ids = ["Zoe", "a:1", "a@b", "ann", "bob-2", "x.y_z"]
    for user_id in reversed(user_ids):
        await store.put("t", user_id, BRIEF, None)
    await raw.zadd("pad:v1:{t}:users", {"amy": 0, "zzz": 0})  # as a writer that died leaves it
    listed = await store.list_profiles("t", 100)
    assert [profile.user_id for profile in listed] == sorted(user_ids)
    first = await store.list_profiles("t", 4)
    rest = await store.list_profiles("t", 4, after=first[-1].user_id)
    assert first + rest == listed


async def test_long_list_is_complete(store):
    user_ids = [f"user-{number:03}" for number in range(230)]
    await asyncio.gather(*(store.put("t", user_id, BRIEF, None) for user_id in user_ids))
    listed = await store.list_profiles("t", 1000)
    assert [profile.user_id for profile in listed] == user_ids
    assert len(await store.list_profiles("t", 150)) == 150
    # A thousand of the largest profiles were read for a page that holds sixty.
    assert len(await store.list_profiles("t", 1000, max_bytes=100)) < 100


async def test_erasure_leaves_no_key_but_a_tombstone_that_expires(store, raw):
    await store.put("t", "ann", KIND, 1.0)
    await store.put("t", "bob", BRIEF, 1.0)
    for text in ("Use lists.", "Be brief."):
        await store.put_encoding("t", "v1", text, b"12")
    await store.delete("t", "ann")
    keys = {key.decode() for key in await all_keys(raw)}
    assert {key for key in keys if "ann" in key} == {"pad:v1:{t:ann}:tombstone"}
    assert await raw.get("pad:v1:{t:ann}:tombstone") == b"1"
    assert 0 < await raw.pttl("pad:v1:{t:ann}:tombstone") <= PATIENT.tombstone_ttl_s * 1000
    assert await raw.zrange("pad:v1:{t}:users", 0, -1) == [b"bob"]
    # Encodings may hold the text itself.
    assert await store.get_encodings("t", "v1", ["Use lists.", "Be brief."]) == {"Be brief.": b"12"}
    await raw.pexpire("pad:v1:{t:ann}:tombstone", 0)
    assert not [key for key in await all_keys(raw) if b"ann" in key]


async def test_index_is_right_after_creations_and_deletions_at_once(store_url, raw):
    async with opened(store_url) as one, opened(store_url) as two:

        async def flip(store):
            for _ in range(15):
                await store.put("t", "ann", BRIEF, None)
                try:
                    await store.delete("t", "ann")
                except ProfileNotFoundError:
                    continue

        await asyncio.gather(flip(one), flip(two), flip(one))
        assert await raw.zrange("pad:v1:{t}:users", 0, -1) == []
        await one.put("t", "ann", BRIEF, None)
        assert await raw.zrange("pad:v1:{t}:users", 0, -1) == [b"ann"]


async def test_scripts_are_loaded_again_after_they_were_flushed(store, raw):
    await store.put("t", "ann", BRIEF, None)
    await raw.script_flush()
    assert (await store.put("t", "ann", BRIEF, None)).revision == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw, key: raw.set(key, "text"),
        lambda raw, key: raw.hset(key, "schema", "9"),
        lambda raw, key: raw.hset(key, "preferences", "{not json"),
        lambda raw, key: raw.hset(key, "preferences", "[[1, 2]]"),
        lambda raw, key: raw.hset(key, "preferences", "17"),
        lambda raw, key: raw.hset(key, "beta", "much"),
        lambda raw, key: raw.hdel(key, "updated_at"),
        lambda raw, key: raw.hdel(key, "revision"),
    ],
)
async def test_damaged_profile_is_told_and_can_be_replaced_and_erased(store, raw, damage):
    key = "pad:v1:{t:ann}:profile"
    for repair in (store.put, store.delete):
        await store.put("t", "ann", KIND, 0.5)
        if await raw.type(key) == b"hash":
            await damage(raw, key)
        for read in (store.get, store.load):
            with pytest.raises(ProfileDamagedError, match="stored profile of 'ann' is damaged"):
                await read("t", "ann")
        assert await store.list_profiles("t", 10) == [DamagedProfile("ann")]
        if repair == store.put:
            await store.put("t", "ann", BRIEF, None)
            assert (await store.get("t", "ann")).preferences == BRIEF
    await store.delete("t", "ann")
    with pytest.raises(ProfileNotFoundError):
        await store.get("t", "ann")


@pytest.mark.parametrize("expected", [0, 1])
async def test_damaged_profile_is_not_replaced_by_who_asks_for_a_revision(store, raw, expected):
    await raw.set("pad:v1:{t:ann}:profile", "text")
    with pytest.raises(ProfileDamagedError):
        await store.put("t", "ann", BRIEF, None, expected_revision=expected)
    with pytest.raises(ProfileDamagedError):
        await store.delete("t", "ann", expected_revision=1)
    assert await raw.get("pad:v1:{t:ann}:profile") == b"text"


async def test_encodings_are_kept_apart_by_model_version_and_expire(store, raw):
    await store.put_encoding("t", "v1", "Be brief.", b"\x00\x01")
    await store.put_encoding("t", "v2", "Be brief.", b"\x02")
    texts = ["Be brief.", "Be kind.", "Be brief."]
    assert await store.get_encodings("t", "v1", texts) == {"Be brief.": b"\x00\x01"}
    assert await store.get_encodings("t", "v2", texts) == {"Be brief.": b"\x02"}
    assert await store.get_encodings("t", "v3", texts) == {}
    (key,) = await all_keys(raw)
    assert b"brief" not in key
    assert 0 < await raw.pttl(key) <= PATIENT.encoding_ttl_s * 1000
