"""Erasing a user: what the store does, and what becomes of caches here and elsewhere."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import redis.asyncio

from generator_svc.encoding_store import FORGOTTEN_S
from generator_svc.erasures import MAX_PENDING, Erasures
from generator_svc.profile_format import ERASURES_CHANNEL, subject_of, user_tag
from generator_svc.profiles import Preference, StoreOptions
from svc_common.errors import ProfileConflictError, ProfileNotFoundError, StoreUnavailableError
from svc_common.lm.model_thread import ModelThread
from svc_common.lm.prefix_cache import PrefixCache
from tests.generator_svc.fake_replica import FakeReplica
from tests.generator_svc.store_watch import (
    PATIENT,
    administered,
    all_keys,
    connected,
    opened,
    until,
    watched,
)
from tests.generator_svc.test_profiles import BRIEF, KIND
from tests.generator_svc.test_reward_pool import running_pool
from tests.svc_common.lm.test_ownership import read
from tests.svc_common.lm.test_prefix_cache import new_runner, prompt
from tests.tcp_proxy import tcp_proxy
from tests.tiny_model import tiny_model

ANN, BOB = subject_of(user_tag("t", "ann")), subject_of(user_tag("t", "bob"))
SWEEP_S = 0.01


async def test_all_processes_hear_whose_caches_to_clear_and_not_who_it_is(redis_url):
    async with (
        opened(redis_url) as here,
        opened(redis_url) as there,
        redis.asyncio.Redis.from_url(redis_url) as raw,
        raw.pubsub() as spy,
    ):
        await spy.psubscribe("*")
        await there.changes.is_listening.wait()
        await here.put("t", "ann", KIND, None)
        await here.delete("t", "ann")
        assert here.watch.forgotten == [ANN]
        assert there.watch.forgotten == []

        async def has_heard():
            return there.watch.noted == [ANN]

        await until(has_heard)
        heard = []
        while (message := await spy.get_message(timeout=0.1)) is not None:
            heard.append(message)
    erasures = [its["data"] for its in heard if its["channel"] == ERASURES_CHANNEL.encode()]
    assert erasures == [ANN.hex().encode()]
    assert not any(text.text in str(heard) for text in KIND)


async def test_a_strangers_message_erases_nobody(store_url):
    async with opened(store_url) as store, administered(store_url) as raw:
        await store.changes.is_listening.wait()
        for message in ("no hex", b"\xff", ANN.hex()):
            await raw.publish(ERASURES_CHANNEL, message)

        async def has_heard():
            return bool(store.watch.noted)

        await until(has_heard)
        assert store.watch.noted == [ANN]
        assert store.changes.is_listening.is_set()


async def test_refused_erasure_clears_no_caches(store_url):
    async with opened(store_url) as store:
        await store.put("t", "ann", KIND, None)
        with pytest.raises(ProfileConflictError):
            await store.delete("t", "ann", expected_revision=2)
        with pytest.raises(ProfileNotFoundError):
            await store.delete("t", "bob")
        assert store.watch.forgotten == []


async def test_encoding_that_comes_after_the_erasure_is_not_kept(store_url):
    """A request that had read the profile put its token ids back for a day."""
    async with opened(store_url) as store, administered(store_url) as raw:
        await store.put("t", "ann", BRIEF, None)
        await store.put_encoding("t", "v1", "Be brief.", b"ids of it")
        await store.delete("t", "ann")
        await store.put_encoding("t", "v1", "Be brief.", b"ids of it")
        assert await store.get_encodings("t", "v1", ["Be brief."]) == {}
        (key,) = await all_keys(raw, "pad:v1:enc:*")
        assert await raw.get(key) == b""
        assert 0 < await raw.ttl(key) <= FORGOTTEN_S
        await raw.pexpire(key, 0)
        await store.put_encoding("t", "v1", "Be brief.", b"another user's")
        assert await store.get_encodings("t", "v1", ["Be brief."]) == {
            "Be brief.": b"another user's"
        }


async def test_tenants_share_no_encodings(store_url):
    """How long a request took told whether another tenant had its wish; and an erasure by one
    kept the encodings of all from being kept for a minute."""
    async with opened(store_url) as store:
        await store.put("t", "ann", BRIEF, None)
        await store.put_encoding("t", "v1", "Be brief.", b"12")
        assert await store.get_encodings("other", "v1", ["Be brief."]) == {}
        await store.put_encoding("other", "v1", "Be brief.", b"34")
        await store.delete("t", "ann")
        assert await store.get_encodings("other", "v1", ["Be brief."]) == {"Be brief.": b"34"}
        assert await store.get_encodings("t", "v1", ["Be brief."]) == {}


async def test_texts_that_a_profile_had_before_are_forgotten_when_they_are_replaced(store_url):
    """An erasure did not know them any more: their encodings stayed for a day."""
    both = (*BRIEF, Preference("Rhyme.", 1.0))
    async with opened(store_url) as store:
        await store.put("t", "ann", both, None)
        for text in ("Be brief.", "Rhyme."):
            await store.put_encoding("t", "v1", text, b"12")
        await store.put("t", "ann", BRIEF, 0.5)
        assert await store.get_encodings("t", "v1", ["Be brief.", "Rhyme."]) == {"Be brief.": b"12"}


async def test_erasure_that_fails_half_way_can_be_done_again(new_redis_server):
    """The profile went first: nobody knew afterwards which encodings were to go."""
    server = new_redis_server()
    async with opened(server.url) as store:
        await store.put("t", "ann", BRIEF, None)
        await store.put_encoding("t", "v1", "Be brief.", b"12")
        async with redis.asyncio.Redis(port=server.port) as raw:
            for denied in ("-unlink", "-evalsha"):
                await raw.execute_command("ACL", "SETUSER", "default", denied)
                with pytest.raises(StoreUnavailableError):
                    await store.delete("t", "ann")
                await raw.execute_command("ACL", "SETUSER", "default", "+@all")
        assert store.watch.forgotten == []
        assert (await store.get("t", "ann")).preferences == BRIEF
        await store.delete("t", "ann")
        assert store.watch.forgotten == [ANN]
        assert await store.get_encodings("t", "v1", ["Be brief."]) == {}


async def test_profile_that_changes_while_it_is_erased_is_erased_with_all_its_texts(store_url):
    async with watched(connected(store_url), PATIENT) as store, opened(store_url) as other:
        await store.put("t", "ann", BRIEF, None)
        forget, seen = store._encodings.forget, []

        async def forget_slowly(tenant, texts):
            seen.append(set(texts))
            await forget(tenant, texts)
            if len(seen) == 1:
                await other.put("t", "ann", KIND, None)

        store._encodings.forget = forget_slowly
        await store.delete("t", "ann")
        texts = {preference.text for preference in KIND}
        assert seen == [{"Be brief."}, {"Be brief.", *texts}]  # it was an earlier revision's


async def test_process_that_was_cut_off_hears_of_a_gap(new_redis_server):
    server = new_redis_server()
    options = StoreOptions(timeout_s=5.0, quick_s=5.0)
    async with tcp_proxy(server.port) as proxy, opened(proxy.url, options) as store:
        await store.changes.is_listening.wait()
        assert store.watch.num_gaps == 1
        proxy.cut()

        async def has_noticed():
            return store.watch.num_gaps == 2

        await until(has_noticed)


@dataclass
class Replicas:
    """Implements what `Erasures` asks of `RewardQueries`."""

    asked: list = field(default_factory=list)
    is_complete: bool = True

    async def forget(self, subjects, timeout_s):
        self.asked.append(list(subjects))
        return self.is_complete


@dataclass
class Caches:
    runner: object
    prefixes: PrefixCache
    replicas: Replicas
    erasures: Erasures
    told: list = field(default_factory=list)
    under_way: list = field(default_factory=list)
    num_tokens: int = -1

    def erased(self, num_users, *, is_complete):
        self.told.append((num_users, is_complete))

    def prefix_cache(self, num_tokens, num_bytes):
        self.num_tokens = num_tokens

    def read(self, seed, owner):
        return read(self.runner, self.prefixes, prompt(seed), owner)


@asynccontextmanager
async def caches(max_age_s=3600.0):
    thread, prefixes = ModelThread(1), PrefixCache(1 << 20, max_age_s=max_age_s)
    its = Caches(new_runner("lean", tiny_model()), prefixes, Replicas(), None)
    its.erasures = Erasures(
        thread,
        prefixes,
        its.replicas,
        its,
        its,
        users_under_way=lambda: its.under_way,
        sweep_interval_s=SWEEP_S,
    )
    running = asyncio.create_task(its.erasures.run())
    try:
        yield its
    finally:
        running.cancel()
        await asyncio.wait((running,))
        thread.close()


async def test_erasure_clears_this_process_and_the_replicas():
    async with caches() as its:
        its.read(1, ANN)
        its.read(2, BOB)
        await its.erasures.forget(ANN)
        assert its.prefixes.count(0, prompt(1), ANN) == 0
        assert its.prefixes.count(0, prompt(2), BOB) == its.num_tokens == len(prompt(2))
        its.replicas.is_complete = False
        its.erasures.note_erasure(BOB)

        async def is_done():
            return len(its.told) == 2

        await until(is_done)
        assert its.told == [(1, True), (1, False)]
        assert its.replicas.asked == [[ANN], [BOB]]
        assert its.prefixes.num_tokens == 0


async def test_a_replica_that_missed_an_erasure_is_told_when_it_is_back():
    """It kept what it knew of the user until that was an hour old."""
    async with caches() as its:
        its.replicas.is_complete = False
        await its.erasures.forget(ANN)
        its.erasures.note_erasure(BOB)

        async def has_tried_again():
            return sorted(its.replicas.asked[-1]) == sorted([ANN, BOB])

        await until(has_tried_again)
        its.replicas.is_complete = True
        await until_silent(its.replicas)
        assert sorted(its.replicas.asked[-1]) == sorted([ANN, BOB])
        assert its.told == [(1, False), (1, False)]  # each erasure is counted once


async def until_silent(replicas):
    """Return once a sweep has gone by in which nobody was asked."""
    while True:
        num_asked = len(replicas.asked)
        await asyncio.sleep(5 * SWEEP_S)
        if len(replicas.asked) == num_asked:
            return


async def test_after_a_gap_nothing_is_kept_of_anybody():
    async with caches() as its:
        its.read(1, ANN)
        its.erasures.note_gap()

        async def is_empty():
            return its.num_tokens == 0

        await until(is_empty)


async def test_answers_under_way_in_a_gap_keep_nothing_as_their_user_may_be_erased():
    """One that ended behind the gap put its prompt back, and nobody would have told again."""
    async with caches() as its:
        its.read(1, ANN)
        its.under_way = [ANN]
        its.erasures.note_gap()

        async def is_empty():
            return its.num_tokens == 0

        await until(is_empty)
        its.read(1, ANN)
        assert its.prefixes.num_tokens == 0
        its.read(2, BOB)  # who came later: his profile was read anew
        assert its.prefixes.num_tokens == len(prompt(2))


async def test_more_erasures_than_can_be_remembered_are_as_good_as_all():
    async with caches() as its:
        its.read(1, BOB)
        for number in range(MAX_PENDING + 1):
            its.erasures.note_erasure(b"%d" % number)

        async def is_empty():
            return its.num_tokens == 0

        await until(is_empty)


async def test_prefixes_end_by_age_though_nobody_asks():
    async with caches(max_age_s=0.0) as its:
        its.read(1, ANN)

        async def is_empty():
            return its.num_tokens == 0

        await until(is_empty)


async def test_replica_that_cannot_forget_is_told_of():
    """One of another version, or none in reach: its caches grow old."""
    async with running_pool(FakeReplica()) as harness:
        await harness.open()
        assert not await harness.calls.forget([ANN], 20.0)
    async with running_pool(extra=("127.0.0.1:1",)) as harness:
        await harness.until(lambda: harness.calls._fleet.replicas)
        assert not await harness.calls.forget([ANN], 20.0)
