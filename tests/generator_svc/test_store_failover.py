"""Another server takes over, or a cluster's node sends us elsewhere."""

import pytest

from generator_svc.profiles import StoreOptions
from svc_common.errors import ProfileNotFoundError, StoreUnavailableError
from tests.generator_svc.store_watch import (
    OLD_COPIES,
    admin,
    opened,
    put,
    until,
    until_loaded,
    until_served,
)
from tests.generator_svc.test_profiles import BRIEF, KIND
from tests.tcp_proxy import tcp_proxy

AT_ONCE = {"repl-diskless-sync-delay": "0"}


async def replicated(master, copy):
    """Make `copy` follow `master`, and wait until it has what the master has."""
    async with admin(master) as raw, admin(copy) as follower:
        await follower.replicaof("127.0.0.1", master.port)

        async def has_all():
            info = await follower.info("replication")
            if info["role"] != "slave" or info["master_link_status"] != "up":
                return False
            ours = (await raw.info("replication"))["master_repl_offset"]
            return info["slave_repl_offset"] >= ours

        await until(has_all)


async def test_a_replica_takes_over_and_profiles_go_on_with_their_revisions(new_redis_server):
    """The master dies; its address comes to stand for the replica, which is promoted."""
    master, copy = (new_redis_server(**AT_ONCE) for _ in range(2))
    async with tcp_proxy(master.port) as proxy, opened(proxy.url, OLD_COPIES) as store:
        await put(store, "ann", BRIEF)
        profile = await until_loaded(store)
        await replicated(master, copy)
        master.stop()
        assert await store.load("t", "ann") == profile
        assert store.watch.sources[-1] == "stale"
        async with admin(copy) as raw:
            await raw.replicaof("NO", "ONE")
        proxy.target_port = copy.port
        assert await until_served(store) == profile
        written = await store.put("t", "ann", KIND, None, expected_revision=profile.revision)
        assert written.revision == profile.revision + 1


async def test_a_master_that_became_a_replica_is_left_for_the_new_one(new_redis_server):
    """Kept connections stayed with the old server, whose READONLY never ended."""
    old, new = (new_redis_server(**AT_ONCE) for _ in range(2))
    options = StoreOptions(timeout_s=5.0, quick_s=5.0, local_ttl_s=0.0)
    async with tcp_proxy(old.port) as proxy, opened(proxy.url, options) as store:
        await store.changes.is_listening.wait()
        profile = await store.put("t", "ann", BRIEF, None)
        await replicated(old, new)
        async with admin(new) as raw:
            await raw.replicaof("NO", "ONE")
        await replicated(new, old)
        proxy.target_port = new.port
        with pytest.raises(StoreUnavailableError, match="ReadOnlyError"):
            await store.put("t", "ann", KIND, None)
        assert store.watch.failures == ["read_only"]
        assert await store.get("t", "ann") == profile  # nothing was written
        assert (await store.put("t", "ann", KIND, None)).revision == profile.revision + 1


async def test_a_cluster_node_that_sends_us_elsewhere_is_an_outage_and_says_what_to_set(
    cluster, caplog
):
    """MOVED reached the caller as INTERNAL."""
    url = f"redis://127.0.0.1:{cluster.primaries[0].port}/0"
    async with opened(url, StoreOptions(timeout_s=5.0, quick_s=5.0)) as store:
        errors = []
        for number in range(20):
            try:
                await store.load("t", f"user-{number}")
            except (ProfileNotFoundError, StoreUnavailableError) as error:
                errors.append(error)
        with pytest.raises(StoreUnavailableError, match="set GENERATOR_REDIS_CLUSTER=true"):
            await store.list_profiles("u", 5)  # whose index lies elsewhere
    moved = [error for error in errors if isinstance(error, StoreUnavailableError)]
    assert 0 < len(moved) < len(errors)
    assert all("set GENERATOR_REDIS_CLUSTER=true" in str(error) for error in moved)
    assert set(store.watch.failures) == {"refused"}
    told = [
        its for its in caplog.records if its.msg == "profile store is not what the settings say"
    ]
    assert len(told) == 1
    assert "GENERATOR_REDIS_CLUSTER=true" in told[0].reason
