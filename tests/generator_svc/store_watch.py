"""What the tests of the profile store watch it by."""

import asyncio
import re
from contextlib import asynccontextmanager

import redis.asyncio
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.cluster import RedisCluster as AdminCluster

from generator_svc.profiles import ProfileStore, StoreOptions, connect
from svc_common.errors import StoreUnavailableError

# The tests' machine may be busy; how fast silence is noticed is tested by itself.
PATIENT = StoreOptions(timeout_s=5.0, quick_s=5.0)
# As in production, but that every copy is old.
OLD_COPIES = StoreOptions(local_ttl_s=0.0)


class Watch:
    """Remembers what a store tells its observer, and of which users it has caches cleared."""

    def __init__(self):
        self.sources = []
        self.failures = []
        self.states = []
        self.num_gaps = 0
        self.forgotten = []
        self.noted = []

    def profile_lookup(self, source):
        self.sources.append(source)

    def store_failure(self, kind):
        self.failures.append(kind)

    def store_is_up(self, is_up):
        self.states.append(is_up)

    def changes_missed(self):
        self.num_gaps += 1

    async def forget(self, subject):
        self.forgotten.append(subject)

    def note_erasure(self, subject):
        self.noted.append(subject)

    def note_gap(self):
        """Counted by `changes_missed`."""


def watched(client, options):
    watch = Watch()
    store = ProfileStore(client, options, watch, watch)
    store.watch, store.sources = watch, watch.sources
    return store


def connected(url, timeout_s=PATIENT.timeout_s, **options):
    """Return a client of one server, or of the cluster whose nodes have commas between them."""
    return connect(url, timeout_s, is_cluster="," in url, **options)


@asynccontextmanager
async def opened(url, options=PATIENT):
    async with watched(connected(url, options.timeout_s), options) as store:
        yield store


@asynccontextmanager
async def administered(url):
    """Yield redis-py's own client of a server or a cluster."""
    if "," in url:
        nodes = [ClusterNode("127.0.0.1", port) for port in ports_of(url)]
        client = AdminCluster(startup_nodes=nodes)
    else:
        client = redis.asyncio.Redis.from_url(url)
    async with client:
        yield client


async def all_keys(client, pattern="*"):
    """Return what `administered` yielded a client of has, on all nodes."""
    if isinstance(client, AdminCluster):
        return await client.keys(pattern, target_nodes=AdminCluster.PRIMARIES)
    return await client.keys(pattern)


def ports_of(url):
    return [int(port) for port in re.findall(r":(\d+)", url)]


async def until(condition, seconds=20.0):
    """Wait for what another process brings about: there is no event to wait on."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_served(store, user_id="ann"):
    """Wait until Redis itself answers a read, and return what it says."""
    found = []

    async def is_served():
        try:
            found.append(await store.get("t", user_id))
        except StoreUnavailableError:
            return False
        return True

    await until(is_served)
    return found[0]


@asynccontextmanager
async def admin(server):
    async with redis.asyncio.Redis(port=server.port) as client:
        yield client


async def put(store, user_id, preferences):
    """Write a profile however long this busy machine takes."""

    async def is_done():
        try:
            await store.put("t", user_id, preferences, None)
        except StoreUnavailableError:
            return False
        return True

    await until(is_done)
    return await until_served(store, user_id)


async def until_loaded(store):
    """Have a copy made that stays, and return it."""
    await store.changes.is_listening.wait()
    profile = await until_served(store)

    async def is_copied():
        try:
            await store.load("t", "ann")
        except StoreUnavailableError:
            return False
        return store.watch.sources[-1] == "redis"

    await until(is_copied)
    return profile
