"""Profiles on a Redis Cluster of three nodes: their whole life, and slots that move."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from functools import partial

import pytest
import redis
from redis.asyncio import SSLConnection

from generator_svc.cluster_map import SlotRange, parse_ranges, slot_of
from generator_svc.profile_format import profile_key, user_tag
from generator_svc.profiles import Preference, StoreOptions, connect
from generator_svc.redis_password import PasswordFile
from generator_svc.store_client import check_mode
from svc_common.errors import ProfileNotFoundError, StoreUnavailableError
from svc_common.settings import SettingsError
from tests.generator_svc.cluster_users import text_on, users_on
from tests.generator_svc.store_watch import PATIENT, connected, opened, until, watched
from tests.generator_svc.test_profiles import BRIEF, KIND
from tests.generator_svc.test_redis_password import ACL
from tests.redis_cluster import ask, new_cluster
from tests.tcp_proxy import tcp_proxy
from tests.tls_keys import Authority

NO_COPIES = StoreOptions(timeout_s=5.0, quick_s=5.0, local_ttl_s=0.0, stale_window_s=0.0)


def allow(preferences):
    """Let anything be restored."""


@pytest.fixture
async def store(cluster):
    async with opened(cluster.url) as store:
        yield store


@pytest.fixture(scope="module")
def own_cluster(new_redis_server):
    """A cluster whose slots tests may move; each takes a user of its own."""
    return new_cluster(new_redis_server)


@pytest.fixture
def users(cluster):
    """Two users on each node."""
    return sorted(user for its in cluster.primaries for user in users_on(cluster, its, 2))


async def test_a_life_on_all_nodes_ends_without_a_trace_on_any(cluster, store, users):
    for user in users:
        first = await store.put("t", user, KIND, 0.5)
        await store.put("t", user, BRIEF, None, first.revision)
    listed = await store.list_profiles("t", 100)
    assert [its.user_id for its in listed] == users
    assert await store.list_profiles("t", 3, after=users[1]) == listed[2:5]
    by_node = [ask(its, "KEYS", "*:profile") for its in cluster.primaries]
    assert [len(keys) for keys in by_node] == [2, 2, 2]
    texts = [text_on(cluster, its) for its in cluster.primaries]
    for user in users:
        restored = await store.restore("t", user, 1, 2, allow)
        assert (restored.preferences, restored.beta, restored.revision) == (KIND, 0.5, 3)
        wishes = tuple(Preference(text, 1.0) for text in texts)
        assert await store.put("t", user, wishes, None) == await store.load("t", user)
        earlier = [one.profile.revision for one in (await store.history("t", user)).earlier]
        assert earlier == [3, 2, 1]
    for text in texts:
        assert await store.put_encoding("t", "v1", text, b"1234")
    assert await store.get_encodings("t", "v1", texts) == dict.fromkeys(texts, b"1234")
    for user in users:
        await store.delete("t", user)
    assert await store.list_profiles("t", 100) == []
    assert await store.get_encodings("t", "v1", texts) == {}
    for server in cluster.primaries:
        for key in ask(server, "KEYS", "*"):  # tombstones, and marks of texts just forgotten
            assert ask(server, "GET", key) in ("4", "")
            ask(server, "PEXPIRE", key, 0)
    assert cluster.keys() == {its.port: [] for its in cluster.primaries}


async def test_changes_on_any_node_are_heard_wherever_one_listens(cluster, users):
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(opened(cluster.url))
        await writer.changes.is_listening.wait()
        busy = listening_ports(cluster)
        listeners = [await listening(stack, cluster, number) for number in range(3)]
        assert listening_ports(cluster) | busy == {its.port for its in cluster.primaries}
        for user in users:
            await writer.put("t", user, BRIEF, None)
            for listener in listeners:
                assert (await listener.load("t", user)).preferences == BRIEF
            await writer.put("t", user, KIND, None)
            for listener in listeners:
                await until(partial(has, listener, user, KIND))
            await writer.put("t", user, BRIEF, None, erases_history=True)
            await writer.delete("t", user)
            for listener in listeners:
                await until(partial(has, listener, user, None))
        assert len(writer.watch.forgotten) == 2 * len(users)
        for listener in listeners:
            await until(partial(has_noted, listener, writer.watch.forgotten))


async def listening(stack, cluster, number):
    """Open a store that listens at another node for each number."""
    client = connected(cluster.url)
    client._next_listener = number
    store = await stack.enter_async_context(watched(client, PATIENT))
    async with asyncio.timeout(20):
        await store.changes.is_listening.wait()
    return store


def listening_ports(cluster):
    return {its.port for its in cluster.primaries if ask(its, "CLIENT", "LIST", "TYPE", "pubsub")}


async def has(store, user, preferences):
    try:
        return (await store.load("t", user)).preferences == preferences
    except ProfileNotFoundError:
        return preferences is None


async def has_noted(store, subjects):
    return sorted(store.watch.noted) == sorted(subjects)


async def test_scripts_may_vanish_from_any_node_between_any_two_calls(cluster, store, users):
    for user in users:
        for call in (
            partial(store.put, "t", user, BRIEF, None),
            partial(store.put_encoding, "t", "v1", f"not {user}'s", b"y"),
            partial(store.list_profiles, "t", 5),
            partial(store.delete, "t", user),
        ):
            for server in cluster.primaries:
                ask(server, "SCRIPT", "FLUSH")
            await call()
    assert store.watch.failures == []


class Move:
    """The way of a slot from one node to another, step by step, as `redis-cli` does it."""

    def __init__(self, cluster, key):
        self.slot = slot_of(key)
        self.source = cluster.owner(key)
        self.target = next(its for its in cluster.primaries if its is not self.source)
        self.servers = cluster.primaries

    def begin(self):
        ids = {its.port: ask(its, "CLUSTER", "MYID") for its in (self.source, self.target)}
        self._set(self.target, "IMPORTING", ids[self.source.port])
        self._set(self.source, "MIGRATING", ids[self.target.port])

    def move_keys(self):
        keys = ask(self.source, "CLUSTER", "GETKEYSINSLOT", self.slot, 100)
        target = ("127.0.0.1", self.target.port, "", 0, 5000)
        ask(self.source, "MIGRATE", *target, "KEYS", *keys)
        return keys

    def end(self):
        owner = ask(self.target, "CLUSTER", "MYID")
        for server in (self.target, *self.servers):
            self._set(server, "NODE", owner)

    def _set(self, server, *state):
        ask(server, "CLUSTER", "SETSLOT", self.slot, *state)


async def test_a_slot_may_move_while_its_profile_is_in_use(own_cluster):
    own = own_cluster
    user, _ = users_on(own, own.primaries[0], 2)
    move = Move(own, profile_key(user_tag("t", user)))
    text = text_on(own, own.primaries[0])
    async with opened(own.url, NO_COPIES) as store, opened(own.url, NO_COPIES) as other:
        await store.put("t", user, BRIEF, None)
        writes, reads, refusals = [], [], []
        may_end = asyncio.Event()

        async def write():
            while not may_end.is_set():
                try:
                    writes.append((await store.put("t", user, KIND, None)).revision)
                except StoreUnavailableError as error:
                    refusals.append(str(error))

        async def read():
            while not may_end.is_set():
                reads.append((await other.load("t", user)).revision)
                assert len(await other.list_profiles("t", 5)) == 1  # in a pipeline

        async def progress():
            """Both go on after each step."""
            num_reads = len(reads)
            await until(partial(is_longer, reads, num_reads))

        tasks = [asyncio.ensure_future(its()) for its in (write, read)]
        await until(partial(is_longer, writes, 3))
        move.begin()
        await progress()
        assert move.move_keys() == [profile_key(user_tag("t", user))]
        await progress()  # redirected by ASK
        assert await store.get("t", user) == (await store.list_profiles("t", 5))[0]
        move.end()
        await progress()
        num_writes = len(writes)
        await until(partial(is_longer, writes, num_writes))  # redirected by MOVED
        may_end.set()
        await asyncio.gather(*tasks)
        assert writes == list(range(2, len(writes) + 2))  # none was lost, none done twice
        assert reads == sorted(reads)
        assert set(store.watch.failures) <= {"refused"}
        assert all("TryAgainError" in its for its in refusals)  # two keys are on two nodes
        assert other.watch.failures == []
        assert store.watch.states == other.watch.states == [True]
        assert await store.put_encoding("t", "v1", text, b"12")
        await store.delete("t", user)
        assert await other.list_profiles("t", 5) == []


async def is_longer(items, length):
    return len(items) > length


async def test_nodes_that_send_us_to_each_other_end_in_time(own_cluster):
    own = own_cluster
    _, user = users_on(own, own.primaries[0], 2)
    slot = slot_of(profile_key(user_tag("t", user)))
    first, second, _ = own.primaries
    async with opened(own.url) as store:
        await store.put("t", user, BRIEF, None)
        ask(first, "DEL", profile_key(user_tag("t", user)))
        ask(first, "CLUSTER", "SETSLOT", slot, "NODE", ask(second, "CLUSTER", "MYID"))
        ask(second, "CLUSTER", "SETSLOT", slot, "NODE", ask(first, "CLUSTER", "MYID"))
        with pytest.raises(StoreUnavailableError, match="ClusterDownError"):
            await store.get("t", user)
        assert store.watch.failures == ["refused"]


async def test_one_node_that_is_known_is_enough_and_need_not_be_the_first(cluster, users):
    (last,) = cluster.primaries[2:]
    url = f"redis://127.0.0.1:1,127.0.0.1:{last.port}/0"
    async with opened(url) as store:
        for user in users:
            await store.put("t", user, BRIEF, None)
        assert len(await store.list_profiles("t", 100)) == len(users)


async def test_the_user_of_the_acl_example_may_do_all_that_is_needed(new_redis_server, tmp_path):
    own = new_cluster(new_redis_server)
    for server in own.primaries:
        with redis.Redis(port=server.port) as admin:
            for line in reversed(ACL.read_text().splitlines()):  # the default user last
                _, name, *rules = line.replace("CHANGE-ME", "one").split()
                admin.execute_command("ACL", "SETUSER", name, "reset", *rules)
    password = tmp_path / "password"
    password.write_text("pad one\n")
    client = connected(own.url, password=PasswordFile(password))
    async with watched(client, PATIENT) as store:
        async with asyncio.timeout(20):
            await store.changes.is_listening.wait()
        names = [user for its in own.primaries for user in users_on(own, its, 1)]
        for user in names:
            await store.put("t", user, BRIEF, None)
        assert len(await store.list_profiles("t", 9)) == 3
        for user in names:
            await store.delete("t", user)
        assert len(await client.all_nodes()) == 3
    password.write_text("pad wrong\n")
    async with watched(connected(own.url, password=PasswordFile(password)), PATIENT) as store:
        with pytest.raises(StoreUnavailableError, match="AuthenticationError"):
            await store.get("t", names[0])


# -- settings ---------------------------------------------------------------------------------


async def test_a_cluster_that_is_taken_for_a_server_stops_the_start(cluster):
    url = f"redis://127.0.0.1:{cluster.primaries[0].port}/0"
    rule = "^GENERATOR_REDIS_CLUSTER: must be true, .* a Redis Cluster of 3 primaries, got false$"
    with pytest.raises(SettingsError, match=rule):
        await check_mode(connect(url, 5.0))


async def test_a_server_that_is_taken_for_a_cluster_stops_the_start(redis_url):
    rule = "^GENERATOR_REDIS_CLUSTER: must be false, as no node of a Redis Cluster .*, got true$"
    with pytest.raises(SettingsError, match=rule):
        await check_mode(connect(redis_url, 5.0, is_cluster=True))


async def test_a_server_that_is_taken_for_a_cluster_later_is_told_by_each_call(redis_url):
    async with watched(connect(redis_url, 5.0, is_cluster=True), PATIENT) as store:
        hint = "it is no Redis Cluster, set GENERATOR_REDIS_CLUSTER=false"
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match=hint):
                await store.get("t", "ann")
        with pytest.raises(StoreUnavailableError, match=hint):
            await store.put("t", "ann", BRIEF, None)


async def test_what_fits_or_is_not_there_yet_stops_no_start(cluster, redis_url):
    for client in (
        connected(cluster.url),
        connect(redis_url, 5.0),
        connect("redis://127.0.0.1:1/0", 5.0),
        connect("redis://127.0.0.1:1/0", 5.0, is_cluster=True),
    ):
        async with client:
            await check_mode(client)


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("unix:///run/redis.sock", r"got unix://\.\.\.$"),
        ("redis:///0", "got '' among the nodes$"),
        ("redis://a:1,,b:2", "got '' among the nodes$"),
        ("redis://a:x", "got 'a:x' among the nodes$"),
        ("redis://user:secret@a:1,b:99999999/0", "got 'b:99999999' among the nodes$"),
        ("redis://a:1,b:2/3", "must name nodes and then no database but 0"),
        ("redis://a:1,b:2?db=3", "must name nodes and then no database but 0"),
        ("redis://a:1,redis://b:2", "must name nodes and then no database but 0"),
        ("a:1,b:2", "got no scheme$"),
        ("user:secret@a:1", "got no scheme$"),  # once quoted, and so were the next three
        ("redis://user:secret/x@a:1,b:2", "written as %2F %3F %23 %40$"),
        ("redis://:secret?x@a:1", "written as %2F %3F %23 %40$"),
        ("redis://:secret#@a:1", "written as %2F %3F %23 %40$"),
        ("redis://:secret[@a:1", "GENERATOR_REDIS_CLUSTER is true$"),
    ],
)
def test_a_url_of_no_cluster_is_refused_and_no_password_is_quoted(url, rule):
    with pytest.raises(SettingsError, match=rule) as caught:
        connect(url, 1.0, is_cluster=True)
    assert str(caught.value).startswith("GENERATOR_REDIS_URL: must ")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://:secret@a:1,b:2/0", "redis://a:x", "http://a", "a:1"])
def test_a_url_of_no_server_is_refused_and_no_password_is_quoted(url):
    rule = "^GENERATOR_REDIS_URL: must be .*; several nodes need GENERATOR_REDIS_CLUSTER=true$"
    with pytest.raises(SettingsError, match=rule) as caught:
        connect(url, 1.0)
    assert "secret" not in str(caught.value)


async def test_each_node_is_asked_over_tls_and_must_show_a_right_certificate(
    new_redis_server, tmp_path
):
    """The tests' server may be built without TLS: a proxy in front of each has it."""
    own = new_cluster(new_redis_server)
    authority = Authority(tmp_path, "authority")
    pair = authority.issue("node", "IP:127.0.0.1")
    stranger = Authority(tmp_path, "stranger")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.cert, pair.key)
    async with AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(tcp_proxy(its.port, tls)) for its in own.primaries
        ]
        ports = {its.port for its in proxies}
        for server, proxy in zip(own.primaries, proxies, strict=True):
            ask(server, "CONFIG", "SET", "cluster-announce-port", proxy.port)
        await until(partial(announce, own, ports))
        url = f"rediss://127.0.0.1:{proxies[0].port}/0?ssl_ca_certs="
        async with watched(
            connect(url + str(authority.cert), 5.0, is_cluster=True), PATIENT
        ) as store:
            for user in (
                users := [user for its in own.primaries for user in users_on(own, its, 1)]
            ):
                await store.put("t", user, BRIEF, None)
            assert len(await store.list_profiles("t", 9)) == len(users)
            assert {int(its.address.rpartition(":")[2]) for its in store._redis.nodes} == ports
        async with watched(
            connect(url + str(stranger.cert), 5.0, is_cluster=True), PATIENT
        ) as store:
            with pytest.raises(StoreUnavailableError):
                await store.get("t", users[0])


async def announce(cluster, ports):
    slots = [ask(its, "CLUSTER", "SLOTS") for its in cluster.primaries]
    return all({primary[1] for _, _, primary, *_ in its} == ports for its in slots)


async def test_each_node_gets_the_urls_options(tmp_path):
    url = "rediss://pad:p%40w@a:1,[::1]:2,b/0?ssl_cert_reqs=none"
    async with connect(url, 0.5, is_cluster=True, max_connections=7) as client:
        for node, place in zip(client.nodes, [("a", 1), ("::1", 2), ("b", 6379)], strict=True):
            pool = node.connection_pool
            options = pool.connection_kwargs
            assert (options["host"], options["port"]) == place
            assert (options["username"], options["password"]) == ("pad", "p@w")
            assert options["socket_timeout"] == options["socket_connect_timeout"] == 0.5
            assert pool.connection_class is SSLConnection
            assert pool.make_connection().ssl_context.cert_reqs == ssl.CERT_NONE
            assert (pool.timeout, pool.max_connections) == (0.5, 7)


# -- what nodes say ---------------------------------------------------------------------------


def test_where_slots_are_is_read_with_the_names_that_a_node_leaves_out():
    reply = [
        [0, 5460, [b"10.0.0.1", 6379, b"id", [b"hostname", b"a"]], [b"10.0.0.4", 6379, b"id"]],
        [5461, 5461, [b"", 6380, b"id"]],
        [5462, 5470, [None, 6381, b"id"]],
        [5471, 16383, [b"?", 6382, b"id"]],
    ]
    ranges = parse_ranges(reply, "asked")
    assert ranges[0] == SlotRange(0, 5460, ("10.0.0.1", 6379))
    assert [its.primary for its in ranges[1:]] == [("asked", 6380 + its) for its in range(3)]
    assert [its.num_slots for its in ranges] == [5461, 1, 9, 10913]


@pytest.mark.parametrize(
    "reply",
    [
        b"OK",
        7,
        [7],
        [[0, 1]],
        [[0, 1, []]],
        [[0, 1, [b"a"]]],
        [[0, 1, [b"a", b"x"]]],
        [[1, 0, [b"a", 1]]],
        [[0, 16384, [b"a", 1]]],
        [[-1, 3, [b"a", 1]]],
        [["a", 3, [b"a", 1]]],
        [[0, 1, [b"\xff", 1]]],
        None,
    ],
)
def test_an_answer_that_is_none_is_refused(reply):
    with pytest.raises(ValueError, match="the answer to CLUSTER SLOTS cannot be read"):
        parse_ranges(reply, "asked")
