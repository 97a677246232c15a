"""What users erase while it is being encoded for a new version does not come back."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from generator_svc.encoding_ahead import EncodingAhead
from generator_svc.encoding_round import AheadOptions
from generator_svc.engine.scorer import RewardContext
from generator_svc.profile_format import encoding_key, subject_of, user_tag
from generator_svc.profiles import Preference, ProfileStore
from svc_common.errors import RewardUnavailableError
from tests.generator_svc.store_watch import administered, connected, opened
from tests.generator_svc.test_encoding_ahead import Seen

OPTIONS = AheadOptions(per_s=10_000, ttl_s=60, interval_s=0.01, retry_s=0.01)
USERS = [f"user-{number}" for number in range(50)]  # one batch
SUBJECTS = {user: subject_of(user_tag("t", user)) for user in USERS}


def wishes(user: str) -> tuple[Preference, ...]:
    return tuple(Preference(f"Wish {number} of {user}.", 1.0) for number in range(8))


@dataclass
class SlowReplica:
    """Implements `engine.scorer.RewardQueries`; its first encoding takes until it is let go."""

    is_broken: bool = False
    vector_versions: frozenset[str] = frozenset(["v1"])
    asked: list[tuple[bytes, str]] = field(default_factory=list)
    forgotten: list[bytes] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

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
        self.asked.append((subject, text))
        self.begun.set()
        await self.let_go.wait()
        if self.is_broken:
            raise RewardUnavailableError("late")
        return model_version, b"1234"

    async def forget(self, subjects: Sequence[bytes], timeout_s: float) -> bool:
        self.forgotten += subjects
        return True


@asynccontextmanager
async def encoding(
    store_url: str, store: ProfileStore, replica: SlowReplica
) -> AsyncIterator[tuple[str, Seen]]:
    """Let a round begin; give the user whose text is being encoded."""
    seen = Seen()
    for user in USERS:
        await store.put("t", user, wishes(user), None)
    async with connected(store_url) as client:
        ahead = EncodingAhead(client, store, replica, seen, OPTIONS)
        task = asyncio.ensure_future(ahead.run())
        try:
            async with asyncio.timeout(20):
                await replica.begun.wait()
            (subject,) = {subject for subject, _ in replica.asked}
            yield next(user for user in USERS if SUBJECTS[user] == subject), seen
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def kept_texts(store: ProfileStore, user: str) -> set[str]:
    return set(await store.get_encodings("t", "v1", [its.text for its in wishes(user)]))


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[ProfileStore]:
    async with opened(store_url) as its:
        yield its


async def test_who_is_erased_after_a_batch_was_read_is_not_encoded(
    store_url: str, store: ProfileStore
) -> None:
    """364 texts of 49 erased users were sent to the replica, and 66 encodings stood in Redis."""
    replica = SlowReplica()
    async with encoding(store_url, store, replica) as (busy, seen):
        staying = next(user for user in USERS if user != busy)
        erased = [user for user in USERS if user != staying]
        for user in erased:
            await store.delete("t", user)
        replica.let_go.set()
        await seen.until((1, 0))
    sent = [subject for subject, _ in replica.asked if subject != SUBJECTS[staying]]
    assert sent == [SUBJECTS[busy]]  # which was under way
    assert replica.forgotten == [SUBJECTS[busy]]
    assert await kept_texts(store, staying) == {its.text for its in wishes(staying)}
    assert not [user for user in erased if await kept_texts(store, user)]
    if "," not in store_url:  # all are in one batch
        assert seen.outcomes.count("gone") == 8 * len(erased)


@pytest.mark.parametrize("is_broken", [False, True], ids=["encoded", "late"])
async def test_an_erasure_is_sent_again_behind_an_encoding_that_was_under_way(
    store_url: str, store: ProfileStore, is_broken: bool
) -> None:
    """The replica may have kept the text after it was told to forget its user."""
    replica = SlowReplica(is_broken=is_broken)
    async with (
        encoding(store_url, store, replica) as (busy, seen),
        administered(store_url) as client,
    ):
        await store.delete("t", busy)
        # As if it had taken so long that encodings of the text are kept again.
        await client.delete(*(encoding_key("t", its.text) for its in wishes(busy)))
        replica.let_go.set()
        await seen.until_outcome("gone")
        assert replica.forgotten == [SUBJECTS[busy]]
        assert await kept_texts(store, busy) == set()


async def test_a_text_that_was_replaced_is_not_encoded(store_url: str, store: ProfileStore) -> None:
    replica = SlowReplica()
    async with encoding(store_url, store, replica) as (busy, seen):
        other = next(user for user in USERS if user != busy)
        new = Preference("Another wish.", 1.0)
        for user in (busy, other):
            await store.put("t", user, (new,), None, erases_history=True)
        replica.let_go.set()
        await seen.until((1, 0))
    assert replica.forgotten == [SUBJECTS[busy]]
    sent = {text for subject, text in replica.asked if subject == SUBJECTS[other]}
    assert sent <= {new.text}  # where the other was not read yet
    assert not await kept_texts(store, busy) | await kept_texts(store, other)
