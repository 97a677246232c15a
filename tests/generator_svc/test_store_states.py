"""Two stores on one Redis against a plain dict, in whatever order things happen."""

import asyncio
from contextlib import AsyncExitStack

import redis.asyncio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from generator_svc.profile_format import CHANGES_CHANNEL
from generator_svc.profiles import Preference, StoreOptions, connect
from svc_common.errors import ProfileConflictError, ProfileNotFoundError, StoreUnavailableError
from tests.generator_svc.store_watch import until, watched
from tests.tcp_proxy import tcp_proxy

OPTIONS = StoreOptions(timeout_s=10.0, quick_s=10.0, probe_interval_s=0.01)
STORES = st.sampled_from([0, 1])
USERS = st.sampled_from([("t", "ann"), ("t", "a:1"), ("u", "ann")])
PREFERENCES = st.lists(
    st.builds(
        Preference,
        st.sampled_from(["Be brief.", "Be kind: ü 漢 \n", "x" * 2000]),
        st.floats(0, 10, exclude_min=True),
    ),
    min_size=1,
    max_size=3,
).map(tuple)
BETAS = st.none() | st.floats(0, 10)
EXPECTED = st.sampled_from(["any", "right", "old", "none", "wrong"])


class Stores(RuleBasedStateMachine):
    """`profiles` is what should be stored, `revisions` the last one that is known of each user."""

    def __init__(self, server):
        super().__init__()
        self.server = server
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.profiles = {}
        self.revisions = {}
        self.num_barriers = 0

    @initialize()
    def start(self):
        self.run(self._start())

    async def _start(self):
        self.raw = redis.asyncio.Redis(port=self.server.port)
        self.stack.push_async_callback(self.raw.aclose)
        await self.raw.flushall()
        self.proxy = await self.stack.enter_async_context(tcp_proxy(self.server.port))
        self.stores = [await self._open(), await self._open()]

    async def _open(self):
        store = watched(connect(self.proxy.url, OPTIONS.timeout_s), OPTIONS)
        store.changes._reconnect_s = 0.01
        store.seen = set()
        drop = store.changes._on_change
        store.changes._on_change = lambda tag: (store.seen.add(tag), drop(tag))
        return await store.__aenter__()

    def run(self, awaitable):
        return self.loop.run_until_complete(asyncio.wait_for(awaitable, 60))

    def outcome(self, awaitable):
        try:
            return self.run(awaitable)
        except (ProfileConflictError, ProfileNotFoundError, StoreUnavailableError) as error:
            return type(error)

    def expected(self, user, kind):
        stored = self.profiles.get(user)
        revision = stored.revision if stored else 0
        return {
            "any": None,
            "right": revision,
            "none": 0,
            "old": max(self.revisions.get(user, 0) - 1, 0),
            "wrong": revision + 7,
        }[kind]

    @rule(store=STORES, user=USERS, preferences=PREFERENCES, beta=BETAS, kind=EXPECTED)
    def put(self, store, user, preferences, beta, kind):
        expected = self.expected(user, kind)
        outcome = self.outcome(self.stores[store].put(*user, preferences, beta, expected))
        stored = self.profiles.get(user)
        if expected is not None and expected != (stored.revision if stored else 0):
            assert outcome is ProfileConflictError
            return
        assert (outcome.preferences, outcome.beta) == (preferences, beta)
        assert outcome.revision == self.revisions.get(user, 0) + 1
        self.profiles[user] = outcome
        self.revisions[user] = outcome.revision

    @rule(store=STORES, user=USERS, kind=EXPECTED.filter(lambda kind: kind != "none"))
    def delete(self, store, user, kind):
        expected = self.expected(user, kind)
        outcome = self.outcome(self.stores[store].delete(*user, expected))
        if user not in self.profiles:
            assert outcome is ProfileNotFoundError
        elif expected is not None and expected != self.profiles[user].revision:
            assert outcome is ProfileConflictError
        else:
            assert outcome is None
            del self.profiles[user]

    @rule(store=STORES, user=USERS)
    def get(self, store, user):
        outcome = self.outcome(self.stores[store].get(*user))
        assert outcome == self.profiles.get(user, ProfileNotFoundError)

    @rule(store=STORES, user=USERS)
    def load(self, store, user):
        self.run(self._settle())
        outcome = self.outcome(self.stores[store].load(*user))
        assert outcome == self.profiles.get(user, ProfileNotFoundError)

    @rule(store=STORES, tenant=st.sampled_from("tuv"), size=st.integers(1, 4))
    def list_all(self, store, tenant, size):
        found, after = [], ""
        while page := self.run(self.stores[store].list_profiles(tenant, size, after)):
            found += page
            after = page[-1].user_id
        kept = {user_id: one for (its, user_id), one in self.profiles.items() if its == tenant}
        assert found == [kept[user_id] for user_id in sorted(kept)]

    @rule(store=STORES)
    def restart(self, store):
        self.run(self.stores[store].__aexit__())
        self.stores[store] = self.run(self._open())

    @rule()
    def flush_scripts(self):
        self.run(self.raw.script_flush())

    @rule()
    def kill_connections(self):
        self.run(self.raw.client_kill_filter(_type="normal", skipme=True))
        self.run(self.raw.client_kill_filter(_type="pubsub"))

    @precondition(lambda self: self.revisions.keys() - self.profiles.keys())
    @rule()
    def tombstones_expire(self):
        for tenant, user_id in self.revisions.keys() - self.profiles.keys():
            self.run(self.raw.pexpire(f"pad:v1:{{{tenant}:{user_id}}}:tombstone", 0))
            del self.revisions[tenant, user_id]

    @rule(user=USERS)
    def outage(self, user):
        self.run(self._settle())
        self.proxy.target_port = 1
        self.proxy.cut()
        for store in self.stores:
            outcome = self.outcome(store.load(*user))  # from a copy, or not at all
            assert outcome in (self.profiles.get(user), StoreUnavailableError)
            for call in (
                store.put(*user, (Preference("lost", 1.0),), None),
                store.delete(*user),
                store.get(*user),
                store.list_profiles(user[0], 1),
            ):
                assert self.outcome(call) is StoreUnavailableError
        self.proxy.target_port = self.server.port
        self.run(self._settle())

    async def _settle(self):
        """Wait until both stores have heard of everything."""
        self.num_barriers += 1
        barrier = f"barrier:{self.num_barriers}"

        async def have_heard():
            await self.raw.publish(CHANGES_CHANNEL, barrier)
            return all(
                barrier in store.seen
                and store.changes.is_listening.is_set()
                and not store.health.has_down
                for store in self.stores
            )

        await until(have_heard, 30)

    @invariant()
    def nothing_is_stored_but_this(self):
        keys = {key.decode() for key in self.run(self.raw.keys("*:profile"))}
        assert keys == {f"pad:v1:{{{tenant}:{user}}}:profile" for tenant, user in self.profiles}

    def teardown(self):
        for store in self.stores:
            self.run(store.__aexit__())
        self.run(self.stack.aclose())
        self.loop.close()


def test_stores_agree_with_a_dict(new_redis_server):
    server = new_redis_server()
    run_state_machine_as_test(
        lambda: Stores(server),
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
