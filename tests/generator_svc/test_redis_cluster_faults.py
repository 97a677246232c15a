"""A node of the cluster fails: its users fall back in time, and nobody else notices."""

import asyncio
import time
from functools import partial

import pytest
import redis

from generator_svc.admission.limits import TenantLimits
from generator_svc.admission.shared_limits import TIMEOUT_S
from generator_svc.profile_format import CHANGES_CHANNEL, profile_key
from generator_svc.profiles import StoreOptions
from svc_common.errors import ProfileNotFoundError, StoreUnavailableError
from tests.generator_svc.cluster_users import tenant_on, text_on, users_on
from tests.generator_svc.store_watch import (
    OLD_COPIES,
    PATIENT,
    connected,
    opened,
    put,
    until,
    until_served,
    watched,
)
from tests.generator_svc.test_profiles import BRIEF, KIND
from tests.generator_svc.test_tenant_limits import Fallbacks, eventually, process
from tests.redis_cluster import ask, new_cluster

MAX_FALLBACK_S = 0.05  # what p99 may be
NUM_LOADS = 600


@pytest.fixture(scope="module")
def own_cluster(new_redis_server):
    """Its first node has a replica."""
    return new_cluster(new_redis_server, num_replicas=1)


@pytest.fixture
def cluster(own_cluster):
    yield own_cluster
    for server in own_cluster.servers:
        server.resume()
        if server.process.poll() is not None:
            server.start()


def kill(server):
    server.stop()


def pause(server):
    server.pause()


async def copied(store, cluster, users):
    """Write profiles, have a copy of each made that stays, and return them by user."""
    heard = set()
    barriers = {f"barrier:{its.port}": its for its in cluster.primaries}
    drop = store.changes._on_change
    store.changes._on_change = lambda tag: (heard.add(tag), drop(tag))
    async with asyncio.timeout(20):
        await store.changes.is_listening.wait()
    profiles = {user: await put(store, user, BRIEF) for user in users}
    await until(partial(have_passed, barriers, heard))  # and what was written before
    for user in users:
        await until(partial(is_copied, store, user))
    return profiles


async def have_passed(barriers, heard):
    for name, server in barriers.items():
        ask(server, "PUBLISH", CHANGES_CHANNEL, name)
    return heard >= barriers.keys()


async def loads(store, users, profiles):
    """Load users over and over; return how long each took, sorted."""
    times = []
    for number in range(NUM_LOADS):
        user = users[number % len(users)]
        started = time.perf_counter()
        assert await store.load("t", user) == profiles[user]
        times.append(time.perf_counter() - started)
    return sorted(times)


async def refusals(store, stranger, text):
    """Ask for what is on a node that is lost and was never copied; return the times, sorted."""
    times = []
    for number in range(NUM_LOADS):
        encodings = number % 2
        look_up = store.get_encodings("t", "v1", [text]) if encodings else store.load("t", stranger)
        started = time.perf_counter()
        with pytest.raises(StoreUnavailableError, match="profile store"):
            await look_up
        times.append(time.perf_counter() - started)
    return sorted(times)


@pytest.mark.parametrize("is_heard", [True, False], ids=["where we listen", "another"])
@pytest.mark.parametrize(("fault", "kind"), [(kill, "unreachable"), (pause, "silent")])
async def test_a_lost_nodes_users_fall_back_in_time_and_all_others_go_on(
    cluster, fault, kind, is_heard
):
    lost = cluster.primaries[1]
    heard = 1 if is_heard else 2
    living = [its for its in cluster.primaries if its is not lost]
    *victims, stranger = users_on(cluster, lost, 5)
    others = [user for its in living for user in users_on(cluster, its, 2)]
    client = connected(cluster.url, OLD_COPIES.timeout_s)
    client._next_listener = heard - 1
    async with watched(client, OLD_COPIES) as store:
        await store.changes.is_listening.wait()
        assert ask(cluster.primaries[heard], "CLIENT", "LIST", "TYPE", "pubsub")
        profiles = await copied(store, cluster, victims + others)
        num_gaps = store.watch.num_gaps
        fault(lost)
        stale = await loads(store, victims, profiles)
        refused = await refusals(store, stranger, text_on(cluster, lost))
        served = await loads(store, others, profiles)
        for times in (stale, refused, served):
            assert times[NUM_LOADS * 99 // 100] <= MAX_FALLBACK_S
            assert times[-1] < 2.0
        assert {kind, "down"} <= set(store.watch.failures)
        assert store.watch.states[-1] is False
        store.watch.sources.clear()
        await loads(store, others, profiles)
        assert store.watch.sources.count("redis") > NUM_LOADS * 0.9  # else the machine is busy
        if is_heard:  # listening begins elsewhere, and copies of the lost node's users stay
            await until(partial(is_over, store, num_gaps))
            await loads(store, victims, profiles)
        assert (await put(store, others[0], KIND)).revision > profiles[others[0]].revision
        lost.resume()
        if lost.process.poll() is not None:
            lost.start()  # empty
            with pytest.raises(ProfileNotFoundError):
                await until_served(store, victims[0])
            await until(partial(is_erased, store, victims[0]))
        else:
            assert await until_served(store, victims[0]) == profiles[victims[0]]
        await put(store, victims[1], KIND)
        await until(partial(is_up, store))
        if is_heard:  # what was kept through the gap is not taken for known any more
            await until(partial(is_forgotten, store, victims[2:]))


async def is_over(store, num_gaps):
    return store.watch.num_gaps > num_gaps


async def is_copied(store, user):
    try:
        await store.load("t", user)
    except StoreUnavailableError:
        return False
    return store.watch.sources[-1] == "redis"


async def is_erased(store, user):
    try:
        await store.load("t", user)
    except ProfileNotFoundError:
        return True
    except StoreUnavailableError:
        return False
    return False


async def is_forgotten(store, users):
    return not {f"t:{user}" for user in users} & store._copies._local.keys()


async def is_up(store):
    return store.watch.states[-1]


async def test_a_planned_failover_fails_no_call_and_changes_are_heard_from_elsewhere(cluster):
    """The node that we listen at lives on; once it left the cluster it would have left us deaf."""
    (primary, replica) = cluster.primaries[0], cluster.replicas[0]
    (user,) = users_on(cluster, primary, 1)
    client = connected(cluster.url)
    client._next_listener = -1
    async with watched(client, PATIENT) as store, opened(cluster.url) as other:
        await store.changes.is_listening.wait()
        assert ask(primary, "CLIENT", "LIST", "TYPE", "pubsub")
        for server in (replica, primary):  # and back
            written = await store.put("t", user, BRIEF, None)
            num_gaps = store.watch.num_gaps
            await until(partial(has_all, server, cluster))
            ask(server, "CLUSTER", "FAILOVER")
            await until(partial(is_asked, store, user, server))
            if server is replica:
                await until(partial(is_over, store, num_gaps))
                assert ask(primary, "PUBSUB", "NUMSUB", CHANGES_CHANNEL)[1] <= 1  # the other's
            again = await other.put("t", user, KIND, None, written.revision)
            await until(partial(is_loaded, store, user, again))
        assert store.watch.failures == other.watch.failures == []
        assert store.watch.states == other.watch.states == [True]


async def is_asked(store, user, server):
    """Tell whether the user's profile is read from that server now; each read must succeed."""
    await store.get("t", user)
    (node,) = store._redis.nodes_of([profile_key(f"t:{user}")])
    return node.address == f"127.0.0.1:{server.port}"


async def is_loaded(store, user, profile):
    return await store.load("t", user) == profile


async def test_a_replica_takes_over_and_profiles_go_on_with_their_revisions(cluster):
    lost = cluster.primaries[0]
    users = users_on(cluster, lost, 3)
    async with opened(cluster.url, OLD_COPIES) as store:
        profiles = await copied(store, cluster, users)
        await until(partial(has_all, cluster.replicas[0], cluster))
        lost.stop()
        await loads(store, users, profiles)
        for user in users:
            assert await until_served(store, user) == profiles[user]
            written = await store.put("t", user, KIND, None, profiles[user].revision)
            assert written.revision == profiles[user].revision + 1
        await until(partial(is_up, store))  # the lost node is missed by nobody
        nodes = {its.address for its in store.changes._client.nodes}
        assert f"127.0.0.1:{cluster.replicas[0].port}" in nodes
        assert f"127.0.0.1:{lost.port}" not in nodes


async def has_all(replica, cluster):
    """Tell whether a server is a replica, and has all that its primary has."""
    (primary,) = {cluster.primaries[0].port, cluster.replicas[0].port} - {replica.port}
    with redis.Redis(port=primary) as client:
        offset = client.info("replication")["master_repl_offset"]
    info = ask(replica, "INFO", "replication")
    is_linked = info["role"] == "slave" and info["master_link_status"] == "up"
    return is_linked and info["slave_repl_offset"] >= offset


async def test_limits_of_tenants_on_other_nodes_stay_common(cluster):
    lost = cluster.primaries[1]
    victim = tenant_on(cluster, lost)
    other = tenant_on(cluster, cluster.primaries[2])
    limits = TenantLimits(max_concurrent=40)
    fallbacks = Fallbacks()
    async with (
        process(cluster.url, limits, fallbacks, timeout_s=TIMEOUT_S) as one,
        process(cluster.url, limits) as two,
    ):
        await one.take(victim, 1, 5)
        await one.take(other, 1, 5)
        lost.stop()
        for _ in range(20):
            await one.take(victim, 1, 5)
        assert fallbacks.count >= 19
        before = fallbacks.count
        for _ in range(10):
            await one.take(other, 1, 5)
        assert fallbacks.count - before <= 2  # a busy machine
        with pytest.raises(Exception, match="may have 40"):
            await two.take(other, 40, 5)
        await eventually(lambda: two.take(other, 20, 5))


async def test_a_cluster_that_comes_after_us_is_found(new_redis_server):
    own = new_cluster(new_redis_server)
    for server in own.primaries:
        server.stop()
    options = StoreOptions(local_ttl_s=0.0)
    async with opened(own.url, options) as store:
        times = []
        for _ in range(NUM_LOADS):
            started = time.perf_counter()
            with pytest.raises(StoreUnavailableError):
                await store.load("t", "ann")
            times.append(time.perf_counter() - started)
        assert sorted(times)[NUM_LOADS * 99 // 100] <= MAX_FALLBACK_S
        assert store.watch.states[-1] is False
        for server in own.primaries:
            server.start()
        with pytest.raises(ProfileNotFoundError):
            await until_served(store)
        assert (await put(store, "ann", BRIEF)).revision == 1
        await until(partial(is_up, store))
