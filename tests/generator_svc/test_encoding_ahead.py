"""Stored preferences are encoded for a new version of the reward model, on a real server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from generator_svc.encoding_ahead import EncodingAhead
from generator_svc.encoding_round import AheadOptions, Outcome
from generator_svc.engine.scorer import RewardContext
from generator_svc.profiles import Preference, ProfileStore
from svc_common.errors import (
    InvalidRequestError,
    OverloadedError,
    RewardUnavailableError,
)
from tests.generator_svc.store_watch import PATIENT, Watch, administered, connected, opened

FAST = AheadOptions(per_s=10_000, ttl_s=60, interval_s=0.01, retry_s=0.01)
ALL = {f"ann-{number}": f"Wish {number}." for number in range(120)}  # more than one batch


@dataclass
class Replicas:
    """Implements `engine.scorer.RewardQueries`; encodes a text as itself and its version."""

    vector_versions: frozenset[str] = frozenset(["v1"])
    refused: str = ""
    num_until_lost: int = 1_000_000
    failures: dict[str, Exception] = field(default_factory=dict)  # by text
    bug: Exception | None = None
    on_ask: Callable[[str], Awaitable[None]] | None = None
    forgotten: list[bytes] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def model_versions(self) -> frozenset[str]:
        return self.vector_versions

    async def score_sequences(
        self, context: RewardContext, answers: list[list[int]], timeout_s: float
    ) -> tuple[str, list[float]]:
        raise AssertionError

    async def encode_preference(
        self, text: str, subject: bytes, timeout_s: float, model_version: str = ""
    ) -> tuple[str, bytes]:
        if len(self.asked) == self.num_until_lost:
            self.vector_versions = frozenset()
            raise RewardUnavailableError("gone")
        if self.bug is not None:
            raise self.bug
        if text == self.refused:
            raise InvalidRequestError("preference.text: must be another")
        if text in self.failures:
            raise self.failures[text]
        self.asked.append((model_version, text))
        if self.on_ask is not None:
            await self.on_ask(text)
        return model_version, f"{model_version} {text}".encode()

    async def forget(self, subjects: Sequence[bytes], timeout_s: float) -> bool:
        self.forgotten += subjects
        return True


@dataclass
class Seen:
    """Implements `encoding_ahead.AheadObserver`."""

    outcomes: list[Outcome] = field(default_factory=list)
    states: list[tuple[int, int]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def encoded_ahead(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.changed.set()

    def versions_ahead(self, num_complete: int, num_missing: int) -> None:
        self.states.append((num_complete, num_missing))
        self.changed.set()

    async def until(self, state: tuple[int, int]) -> None:
        await self._wait(lambda: self.states[-1:] == [state])

    async def until_told(self, num_times: int) -> None:
        await self._wait(lambda: len(self.states) >= num_times)

    async def until_outcome(self, outcome: Outcome) -> None:
        await self._wait(lambda: outcome in self.outcomes)

    async def _wait(self, is_met: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not is_met():
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[ProfileStore]:
    async with opened(store_url) as its:
        for user_id, text in ALL.items():
            await its.put("t", user_id, (Preference(text, 1.0),), None)
        yield its


@asynccontextmanager
async def running(
    store_url: str, store: ProfileStore, replicas: Replicas, options: AheadOptions = FAST
) -> AsyncIterator[Seen]:
    seen = Seen()
    async with connected(store_url) as client:
        task = asyncio.ensure_future(EncodingAhead(client, store, replicas, seen, options).run())
        try:
            yield seen
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def kept(store: ProfileStore, version: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    texts = list(ALL.values())
    for start in range(0, len(texts), 20):
        found |= await store.get_encodings("t", version, texts[start : start + 20])
    return found


async def test_all_profiles_are_encoded_for_each_version(
    store_url: str, store: ProfileStore
) -> None:
    replicas = Replicas(frozenset(["v1", "v2"]))
    async with running(store_url, store, replicas) as seen:
        await seen.until((2, 0))
        for version in ("v1", "v2"):
            assert await kept(store, version) == {
                text: f"{version} {text}".encode() for text in ALL.values()
            }
        num_asked = len(replicas.asked)
        replicas.vector_versions = frozenset(["v1", "v2", "v3"])
        await seen.until((3, 0))
    assert len(replicas.asked) == num_asked + len(ALL)  # the others were not done again
    assert len(replicas.asked) == len(set(replicas.asked)) == 3 * len(ALL)


async def test_of_two_generators_one_does_it(store_url: str, store: ProfileStore) -> None:
    replicas = Replicas()
    async with (
        running(store_url, store, replicas) as first,
        running(store_url, store, replicas) as second,
    ):
        await first.until((1, 0))
        await second.until((1, 0))
    assert len(replicas.asked) == len(ALL)
    assert sorted(map(len, (first.outcomes, second.outcomes))) == [0, len(ALL)]


async def test_what_was_broken_off_is_gone_on_with(store_url: str, store: ProfileStore) -> None:
    replicas = Replicas(num_until_lost=30)
    async with running(store_url, store, replicas) as seen:
        await seen.until((0, 1))
        replicas.num_until_lost = 1_000_000
        replicas.vector_versions = frozenset(["v1"])
        await seen.until((1, 0))
    assert len(replicas.asked) == len(ALL)  # none twice
    assert seen.outcomes.count("kept") == 30


async def test_a_text_that_a_model_refuses_is_passed_over(
    store_url: str, store: ProfileStore
) -> None:
    replicas = Replicas(refused="Wish 7.")
    async with running(store_url, store, replicas) as seen:
        await seen.until((1, 0))
    assert seen.outcomes.count("refused") == 1
    assert seen.outcomes.count("computed") == len(ALL) - 1


@pytest.mark.parametrize("store_url", ["server"], indirect=True)
async def test_the_rate_is_kept(store_url: str, store: ProfileStore) -> None:
    replicas = Replicas()
    options = AheadOptions(per_s=100, ttl_s=60, interval_s=0.01)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with running(store_url, store, replicas, options) as seen:
        await seen.until((1, 0))
    assert loop.time() - began >= (len(ALL) - 1) / 100


async def test_models_that_read_preferences_as_text_are_left_alone(
    store_url: str, store: ProfileStore
) -> None:
    replicas = Replicas(frozenset())
    async with running(store_url, store, replicas) as seen:
        await seen.until((0, 0))
    assert replicas.asked == []


async def test_what_a_stranger_wrote_under_our_names_is_passed_over(
    store_url: str, store: ProfileStore
) -> None:
    """An error of one key would end the process, as that of any of its parts does."""
    async with administered(store_url) as client:
        await client.set("pad:v1:{t:text}:profile", "no hash")
        await client.hset("pad:v1:{t:half}:profile", "preferences", "[[1, 2]")
        await client.hset(b"pad:v1:{t:\xff}:profile", "preferences", b"\xff")
    replicas = Replicas()
    async with running(store_url, store, replicas) as seen:
        await seen.until((1, 0))
    assert len(replicas.asked) == len(ALL)


async def test_while_the_store_refuses_it_is_tried_again_and_told_once(
    store_url: str, store: ProfileStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with administered(store_url) as client:
        await client.config_set("maxmemory", 1)
        try:
            async with running(store_url, store, Replicas()) as seen:
                await seen.until_told(3)
                await client.config_set("maxmemory", 0)
                await seen.until((1, 0))
        finally:
            await client.config_set("maxmemory", 0)
    told = [r for r in caplog.records if r.msg == "encoding ahead was broken off"]
    assert len(told) == 1


async def test_an_error_that_nobody_foresaw_does_not_end_the_service(
    store_url: str, store: ProfileStore, caplog: pytest.LogCaptureFixture
) -> None:
    """It ended the process, as a failure of any of its parts does."""
    replicas = Replicas(bug=ValueError("Wish 1."))
    async with running(store_url, store, replicas) as seen:
        await seen.until_told(3)
        replicas.bug = None
        await seen.until((1, 0))
    assert len(replicas.asked) == len(ALL)
    told = [r for r in caplog.records if r.msg == "encoding ahead was broken off"]
    assert [record.__dict__["reason"] for record in told] == ["ValueError"]
    assert told[0].exc_info is not None


@pytest.mark.parametrize("store_url", ["server"], indirect=True)
async def test_while_replicas_are_full_nothing_counts_as_done(
    store_url: str, store: ProfileStore
) -> None:
    """A version of which no text was encoded was complete for half a day."""
    full = OverloadedError("full", retry_after_s=0.001)
    replicas = Replicas(failures=dict.fromkeys(ALL.values(), full))
    async with running(store_url, store, replicas) as seen:
        await seen.until((0, 1))
        assert set(seen.outcomes) == {"failed"}
        replicas.failures.clear()
        await seen.until((1, 0))
    assert len(replicas.asked) == len(await kept(store, "v1")) == len(ALL)


async def test_a_text_at_full_replicas_is_tried_again_at_once(
    store_url: str, store: ProfileStore
) -> None:
    replicas = Replicas(failures={"Wish 7.": OverloadedError("full", retry_after_s=0.001)})

    class Emptying(dict[str, Exception]):
        num_left = 3

        def __contains__(self, text: object) -> bool:
            self.num_left -= text == "Wish 7."
            return super().__contains__(text) and self.num_left > 0

    replicas.failures = Emptying(replicas.failures)
    async with running(store_url, store, replicas) as seen:
        await seen.until((1, 0))
    assert seen.outcomes == ["computed"] * len(ALL)


async def test_a_text_that_takes_too_long_stops_no_other(
    store_url: str, store: ProfileStore
) -> None:
    """The version was broken off at each try, and what stood behind never encoded."""
    replicas = Replicas(failures={"Wish 7.": RewardUnavailableError("late")})
    async with running(store_url, store, replicas) as seen:
        await seen.until((0, 1))
        assert len(await kept(store, "v1")) == len(ALL) - 1
        assert seen.outcomes.count("failed") >= 1
        replicas.failures.clear()
        await seen.until((1, 0))
    assert len(replicas.asked) == len(ALL)


async def test_a_round_ends_where_another_has_its_lease(
    store_url: str, store: ProfileStore
) -> None:
    """The lease was renewed and deleted whoever had it."""
    lease = "pad:v1:encoding:v1"
    options = replace(FAST, lease_s=0.003)  # renewal is due with each text
    async with administered(store_url) as client:

        async def take_over(_text: str) -> None:
            await client.set(lease, "another")

        replicas = Replicas(on_ask=take_over)
        async with running(store_url, store, replicas, options) as seen:
            await seen.until_told(3)
            assert await client.get(lease) == b"another"
            assert seen.states[-1] == (0, 1)
            assert len(replicas.asked) < len(ALL)
            assert not await client.exists("pad:v1:encoded:v1")
            replicas.on_ask = None
            await client.delete(lease)
            await seen.until((1, 0))


@pytest.mark.parametrize("store_url", ["server"], indirect=True)
async def test_the_lease_is_kept_while_nothing_has_to_be_computed(
    store_url: str, store: ProfileStore
) -> None:
    """It was renewed before a computed text only, so that all generators read at once."""

    class SlowStore(ProfileStore):
        async def get_encodings(
            self, tenant: str, model_version: str, texts: Iterable[str]
        ) -> dict[str, bytes]:
            found = await super().get_encodings(tenant, model_version, texts)
            await asyncio.sleep(0.02)
            return found

    for text in ALL.values():
        await store.put_encoding("t", "v1", text, b"1234")
    options = replace(FAST, lease_s=0.6)  # a fourth of what the round takes
    watch = Watch()
    client = connected(store_url)
    async with (
        SlowStore(client, PATIENT, watch, watch) as slow,
        running(store_url, slow, Replicas(), options) as first,
        running(store_url, slow, Replicas(), options) as second,
    ):
        await first.until((1, 0))
        await second.until((1, 0))
    assert sorted(map(len, (first.outcomes, second.outcomes))) == [0, len(ALL)]
