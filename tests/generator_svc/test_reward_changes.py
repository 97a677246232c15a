"""Replicas that come, that serve another model, and that are no longer trusted."""

import asyncio

import pytest

from generator_svc.engine.scorer import RewardSession, SessionState
from generator_svc.reward_client.breaker import MAX_FAILURES
from generator_svc.reward_client.limits import PoolLimits
from generator_svc.reward_client.pool import RewardPool
from tests.generator_svc.fake_replica import FINGERPRINT, FakeReplica, running_replica
from tests.generator_svc.test_reward_pool import Harness, Listener, running_pool


def replica_of(version: str) -> FakeReplica:
    replica = FakeReplica()
    replica.model_version = version
    return replica


def home_of(harness: Harness) -> FakeReplica:
    (home,) = [replica for replica in harness.replicas if replica.committed]
    return home


async def lose_home(harness: Harness, session: RewardSession) -> None:
    """Have a session's replica hang up, and wait until it has another."""
    home = home_of(harness)
    home.hang_up.set()
    await harness.until(lambda: session.state is SessionState.OPENING)
    home.committed.clear()
    await harness.until(lambda: session.state is SessionState.OPEN)


async def test_a_session_moves_among_replicas_of_the_model_it_began_with() -> None:
    others = [replica_of("v2") for _ in range(3)]
    async with running_pool(replica_of("v1"), replica_of("v1")) as harness:
        await harness.ready(2)
        session = await harness.open(1)
        assert await harness.reward(session) == 1
        for other in others:
            async with running_replica(other) as port:
                harness.pool.fleet._targets += (f"127.0.0.1:{port}",)
                await harness.until(lambda: other.num_streams > 0)  # noqa: B023
                await lose_home(harness, session)
                assert await harness.reward(session) == 1
                assert session.model_version == "v1"
                assert not other.log
                await harness.until(
                    lambda: sum(its.model_version == "v1" for its in available(harness)) == 2
                )
    assert harness.listener.num_model_changes == 0


def available(harness: Harness) -> list[object]:
    return [replica for replica in harness.pool.fleet.replicas if replica.is_available]


async def test_where_its_model_is_gone_a_session_goes_on_with_another_after_a_while() -> None:
    async with running_pool(replica_of("v1"), replica_of("v2")) as harness:
        await harness.ready(2)
        session = await harness.open(1)
        home = home_of(harness)
        while home.model_version != "v1":  # chosen by chance
            harness.pool.close(session)
            await harness.until(lambda: not any(r.committed for r in harness.replicas))
            session = await harness.open(1)
            home = home_of(harness)
        assert await harness.reward(session) == 1
        home.model_version = "v2"  # what it serves once it is there again
        await lose_home(harness, session)
        assert session.model_version == "v1"  # whose rewards it got last
        assert await harness.reward(session) == 1
        assert session.model_version == "v2"
        assert harness.listener.num_model_changes == 1


async def test_a_draining_replica_keeps_sessions_that_only_another_model_could_take() -> None:
    async with running_pool(replica_of("v1"), replica_of("v2")) as harness:
        await harness.ready(2)
        session = await harness.open(5)
        home = home_of(harness)
        home.health.set_serving(False)
        await harness.until(lambda: len(available(harness)) == 1)
        session.token_ids.append(1)
        harness.pool.commit([session])
        assert await harness.reward(session) == 2
        assert home.committed
        assert session.model_version == home.model_version


async def test_a_replica_that_a_name_stands_for_from_now_on_gets_sessions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses: set[str] = set()

    async def resolve(targets: tuple[str, ...]) -> tuple[set[str], bool]:
        assert targets == ("rewards:50052",)
        return set(addresses), True

    monkeypatch.setattr("generator_svc.reward_client.fleet.resolve", resolve)
    limits = PoolLimits(step_timeout_s=2.0, open_timeout_s=10.0, resolve_interval_s=0.1)
    pool = RewardPool(("rewards:50052",), FINGERPRINT, limits, Listener())
    one, two = FakeReplica(), FakeReplica()
    harness = Harness(pool, [one, two], Listener(), asyncio.Event())
    running = asyncio.create_task(pool.run())
    try:
        async with running_replica(one) as port, running_replica(two) as other_port:
            addresses.add(f"127.0.0.1:{port}")
            first = await harness.open()
            addresses.add(f"127.0.0.1:{other_port}")
            await harness.ready(2)
            for _ in range(6):
                await harness.open()
            assert len(two.committed) >= 2
            addresses.remove(f"127.0.0.1:{port}")  # its sessions stay while it lives
            assert await harness.reward(first) == 0
            one.hang_up.set()
            await harness.until(lambda: len(pool.fleet.replicas) == 1)
            await harness.until(lambda: first.state is SessionState.OPEN)
            assert await harness.reward(first) == 0
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_replica_whose_rewards_are_garbage_gets_no_sessions_until_a_probe_is_good() -> None:
    bad, good = FakeReplica(), FakeReplica()
    async with running_pool(bad, good) as harness:
        await harness.ready(2)
        bad.cuts_rewards = True
        replica = next(
            its for its in harness.pool.fleet.replicas if its.address.endswith(str(bad.port))
        )
        while not replica.is_suspended:
            session = await harness.open()
            while await harness.reward(session) is None:
                await harness.until(lambda: session.state is SessionState.OPEN)  # noqa: B023
        assert harness.listener.circuits == ["open"]
        assert bad.log.count("score 1") == MAX_FAILURES
        bad.log.clear()
        for _ in range(6):
            await harness.open()
        assert not bad.log
        bad.cuts_rewards = False
        await harness.until(lambda: replica.is_available)
        while replica.is_suspended:
            await harness.reward(await harness.open())
        assert harness.listener.circuits == ["open", "closed"]
