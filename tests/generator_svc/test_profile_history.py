"""Earlier revisions of a profile: kept with it, restored as new ones, erased with it."""

import asyncio
from contextlib import suppress

import pytest
import redis

from generator_svc.profile_format import encoding_key, subject_of, user_tag
from generator_svc.profile_scripts import MAX_HISTORY_BYTES
from generator_svc.profiles import Preference, Profile, StoreOptions
from svc_common.errors import (
    InvalidRequestError,
    ProfileConflictError,
    ProfileDamagedError,
    ProfileNotFoundError,
)
from tests.generator_svc.store_watch import PATIENT, administered, all_keys, opened, ports_of, until
from tests.generator_svc.test_profiles import BRIEF, KIND

KEY = "pad:v1:{t:ann}:profile"
# The scripts of the first version, which knew no history: what an older server still runs.
OLD_PUT = """
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'revision', ARGV[1], unpack(ARGV, 2))
"""


@pytest.fixture
async def store(store_url):
    async with opened(store_url) as store:
        yield store


@pytest.fixture
async def raw(store_url):
    async with administered(store_url) as client:
        yield client


def each_server(url, *command):
    """Run a command where its key is, and where it is refused."""
    for port in ports_of(url):
        with suppress(redis.exceptions.MovedError), redis.Redis(port=port) as client:
            client.execute_command(*command)


def allow(preferences):
    """Let anything be restored."""


def wish(number):
    return (Preference(f"Wish {number}.", 1.0),)


async def revisions(store, user_id="ann"):
    return [one.profile.revision for one in (await store.history("t", user_id)).earlier]


async def test_each_write_keeps_what_it_replaces_to_the_last_bit(store):
    first = await store.put("t", "ann", KIND, 0.1 + 0.2)
    second = await store.put("t", "ann", BRIEF, None)
    third = await store.put("t", "ann", BRIEF, 2.0)
    history = await store.history("t", "ann")
    assert history.current == third
    assert [one.profile for one in history.earlier] == [second, first]
    assert history.num_damaged == 0


async def test_an_earlier_revision_comes_back_as_a_new_one_and_numbers_never_go_back(store):
    await store.put("t", "ann", KIND, 0.25)
    await store.put("t", "ann", BRIEF, None)
    restored = await store.restore("t", "ann", 1, 2, allow)
    assert restored == Profile("ann", KIND, 0.25, 3, restored.updated_at)
    assert await store.get("t", "ann") == await store.load("t", "ann") == restored
    assert await revisions(store) == [2, 1]
    redone = await store.restore("t", "ann", 2, None, allow)
    assert (redone.preferences, redone.beta, redone.revision) == (BRIEF, None, 4)


async def test_the_oldest_go_first(store_url):
    options = StoreOptions(timeout_s=5.0, quick_s=5.0, max_revisions=3)
    async with opened(store_url, options) as store:
        for number in range(6):
            await store.put("t", "ann", wish(number), None)
        assert await revisions(store) == [5, 4, 3]
        with pytest.raises(ProfileNotFoundError, match=r"one that is kept \(5, 4, 3\), got 2"):
            await store.restore("t", "ann", 2, None, allow)


async def test_fewer_are_shown_at_once_and_kept_from_the_next_write_on(store_url, raw):
    async with opened(store_url) as store:
        for number in range(4):
            await store.put("t", "ann", wish(number), None)
    none = StoreOptions(timeout_s=5.0, quick_s=5.0, max_revisions=0)
    async with opened(store_url, none) as store:
        assert await revisions(store) == []
        assert await raw.hexists(KEY, "history")
        await store.put("t", "ann", BRIEF, None)
        assert not await raw.hexists(KEY, "history")


async def test_bytes_are_bounded_however_long_wishes_are(store, raw):
    large = tuple(Preference("\U0001f426" * 1999 + str(place), 1.0) for place in range(8))
    for _ in range(6):
        await store.put("t", "ann", large, None)
    assert await raw.hstrlen(KEY, "history") <= MAX_HISTORY_BYTES
    assert await revisions(store) == [5, 4]
    assert (await store.restore("t", "ann", 4, None, allow)).preferences == large


async def test_what_should_not_have_been_stored_is_erased_and_what_follows_is_kept(store, raw):
    await store.put("t", "ann", (Preference("My secret.", 1.0),), None)
    await store.put("t", "ann", KIND, None)
    await store.put("t", "ann", BRIEF, None, erases_history=True)
    assert b"secret" not in b"".join((await raw.hgetall(KEY)).values())
    assert await revisions(store) == []
    assert store.watch.forgotten == [subject_of(user_tag("t", "ann"))]
    await store.put("t", "ann", KIND, None)
    assert await revisions(store) == [3]


async def test_what_was_made_of_it_goes_too_in_all_processes(store, raw, store_url):
    """Prefixes stayed in caches for up to an hour, and encodings of earlier wishes for a day."""
    async with opened(store_url) as other:
        await asyncio.wait_for(other.changes.is_listening.wait(), 20)
        for number in range(2):
            await store.put("t", "ann", wish(number), None)
        await store.put_encoding("t", "v1", "Wish 0.", b"ids")  # by an answer that ended late
        await store.put("t", "ann", BRIEF, None, erases_history=True)
        assert await store.get_encodings("t", "v1", ["Wish 0."]) == {}

        async def is_told():
            return other.watch.noted == [subject_of(user_tag("t", "ann"))]

        await until(is_told)


async def test_erasing_a_profile_erases_its_history_and_all_encodings(store, raw):
    for number in range(3):
        await store.put("t", "ann", wish(number), None)
        # As if it had not been reached when the text was replaced.
        await raw.delete(encoding_key("t", wish(number)[0].text))
        await store.put_encoding("t", "v1", wish(number)[0].text, b"ids")
    await store.delete("t", "ann")
    for key in await all_keys(raw):
        kind = await raw.type(key)
        assert kind == b"string", key  # tombstones, of user and encodings
    with pytest.raises(ProfileNotFoundError):
        await store.history("t", "ann")
    with pytest.raises(ProfileNotFoundError):
        await store.restore("t", "ann", 1, None, allow)
    again = await store.put("t", "ann", BRIEF, None)
    assert again.revision == 4
    assert await revisions(store) == []


async def test_a_restore_brings_back_nothing_that_was_erased_meanwhile(store, raw, store_url):
    await store.put("t", "ann", KIND, None)
    await store.put("t", "ann", BRIEF, None)

    def erase(_):
        """Run between the look and the write."""
        each_server(store_url, "DEL", KEY)

    with pytest.raises(ProfileNotFoundError):
        await store.restore("t", "ann", 1, None, erase)
    assert await raw.exists(KEY) == 0


async def test_a_revision_that_leaves_the_history_meanwhile_is_not_restored(store, store_url):
    await store.put("t", "ann", KIND, None)
    await store.put("t", "ann", BRIEF, None)

    def drop(_):
        each_server(store_url, "HDEL", KEY, "history")

    with pytest.raises(ProfileNotFoundError, match=r"one that is kept \(none\), got 1"):
        await store.restore("t", "ann", 1, None, drop)
    assert (await store.get("t", "ann")).preferences == BRIEF


async def test_a_restore_is_refused_where_its_caller_would_not_expect_it(store):
    await store.put("t", "ann", KIND, None)
    await store.put("t", "ann", BRIEF, None)
    with pytest.raises(ProfileConflictError, match="must be the stored 2, got 1"):
        await store.restore("t", "ann", 1, 1, allow)
    with pytest.raises(InvalidRequestError, match="an earlier one than the stored 2"):
        await store.restore("t", "ann", 2, None, allow)

    def refuse(preferences):
        assert preferences == KIND
        raise InvalidRequestError("preferences[0].text: no")

    with pytest.raises(InvalidRequestError, match="text: no"):
        await store.restore("t", "ann", 1, None, refuse)
    assert (await store.get("t", "ann")).revision == 2


async def test_a_damaged_profile_can_be_undone(store, raw):
    await store.put("t", "ann", KIND, None)
    await store.put("t", "ann", BRIEF, None)
    await raw.hset(KEY, "preferences", "[")
    history = await store.history("t", "ann")
    assert history.current is None
    assert (await store.restore("t", "ann", 1, None, allow)).preferences == KIND


async def test_lines_that_somebody_else_wrote_are_counted_and_do_no_harm(store, raw):
    await store.put("t", "ann", KIND, None)
    await store.put("t", "ann", BRIEF, None)
    good = await raw.hget(KEY, "history")
    await raw.hset(KEY, "history", b"\xff\n\t\t\t\t\n1\tx\n" + good + b"no end")
    history = await store.history("t", "ann")
    assert [one.profile.preferences for one in history.earlier] == [KIND]
    assert history.num_damaged == 4
    await raw.hset(KEY, "history", b"x" * (MAX_HISTORY_BYTES + 1))
    assert await revisions(store) == []
    await store.put("t", "ann", KIND, None)
    assert await revisions(store) == [2]


async def test_history_of_no_hash_is_none(store, raw):
    await raw.set(KEY, "x")
    assert (await store.history("t", "ann")).current is None
    with pytest.raises(ProfileDamagedError):
        await store.put("t", "ann", BRIEF, None, expected_revision=1)
    await store.put("t", "ann", BRIEF, None)
    assert await revisions(store) == []


async def test_profiles_of_a_server_that_knew_no_history_are_read_and_kept(store, raw):
    await raw.eval(
        OLD_PUT, 1, KEY, "7", "schema", "1", "preferences", '[["Old.", 1.0]]', "beta", "",
        "updated_at", "1700000000.5",
    )  # fmt: skip
    old = await store.get("t", "ann")
    await store.put("t", "ann", BRIEF, None, expected_revision=7)
    assert [one.profile for one in (await store.history("t", "ann")).earlier] == [old]
    # Its next write drops the history, rather than to let it grow wrong.
    await raw.eval(
        OLD_PUT, 1, KEY, "9", "schema", "1", "preferences", '[["Old.", 1.0]]', "beta", "",
        "updated_at", "1700000001.5",
    )  # fmt: skip
    assert await revisions(store) == []


async def test_tenants_and_users_have_histories_of_their_own(store):
    for tenant, user_id in (("t", "ann"), ("t", "ben"), ("u", "ann")):
        await store.put(tenant, user_id, (Preference(f"{tenant} {user_id}", 1.0),), None)
        await store.put(tenant, user_id, BRIEF, None)
    for tenant, user_id in (("t", "ann"), ("t", "ben"), ("u", "ann")):
        history = await store.history(tenant, user_id)
        assert history.texts == {f"{tenant} {user_id}"}


async def test_two_writers_lose_no_revision(store_url):
    async with opened(store_url, PATIENT) as one, opened(store_url, PATIENT) as two:
        await asyncio.gather(
            *(store.put("t", "ann", wish(n), None) for n in range(5) for store in (one, two))
        )
        history = await one.history("t", "ann")
        assert history.current is not None
        assert history.current.revision == 10
        assert [its.profile.revision for its in history.earlier] == list(range(9, 0, -1))
