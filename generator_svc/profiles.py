"""Keeps profiles in Redis, with copies in this process for while it is slow or away."""

import asyncio
import math
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Self

from generator_svc.encoding_store import EncodingStore
from generator_svc.profile_changes import ChangeListener
from generator_svc.profile_copies import ProfileCopies
from generator_svc.profile_erasure import ProfileErasure
from generator_svc.profile_format import Preference, Profile, subject_of, user_tag
from generator_svc.profile_hashes import DamagedProfile, HistoryChangedError, ProfileHashes
from generator_svc.profile_history import History
from generator_svc.redis_client import RedisClient, connect
from generator_svc.store_health import StoreHealth
from generator_svc.store_ports import Caches, LookupSource, StoreObserver, StoreOptions

__all__ = [
    "DamagedProfile",
    "LookupSource",
    "Preference",
    "Profile",
    "ProfileStore",
    "StoreOptions",
    "connect",
]


class ProfileStore:
    """The profiles of all tenants, and encodings of their texts; an async context manager.

    Attributes:
        changes: Hears what other processes change; local copies end by age while it does not.
        health: Knows whether Redis answers.
    """

    def __init__(
        self, client: RedisClient, options: StoreOptions, observer: StoreObserver, caches: Caches
    ) -> None:
        """Make a store.

        Args:
            client: From `connect`; closed with the store.
            options: Times and limits.
            observer: Told what happens.
            caches: Cleared of users who are erased, here or by other processes.
        """
        self._redis = client
        self._options = options
        self._observer = observer
        self._caches = caches
        self.health = StoreHealth(
            client,
            options.patience,
            on_failure=observer.store_failure,
            on_change=observer.store_is_up,
            on_return=lambda: self._copies.drop_unheard(),
        )
        self._hashes = ProfileHashes(client, self.health, options.tombstone_ttl_s)
        self._encodings = EncodingStore(client, self.health, options.encoding_ttl_s)
        self._erasure = ProfileErasure(self._hashes, self._encodings, options.max_revisions)
        self._copies = ProfileCopies(self._hashes.read, self.health, options, observer)
        self.changes = ChangeListener(
            client,
            self.health.has_answer_of,
            on_change=self._copies.drop,
            on_erasure=caches.note_erasure,
            on_gap=self._note_gap,
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._observer.store_is_up(True)
        self._tasks = [
            asyncio.ensure_future(self.changes.run()),
            asyncio.ensure_future(self._copies.expire()),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self.health.close()
        await self._redis.aclose()

    async def load(self, tenant: str, user_id: str) -> Profile:
        """Return the profile to write an answer with; see `ProfileCopies.load`."""
        return await self._copies.load(tenant, user_id)

    async def get(self, tenant: str, user_id: str) -> Profile:
        """Return the profile as Redis has it now; raises what `load` does."""
        return await self._hashes.read(tenant, user_id)

    async def put(
        self,
        tenant: str,
        user_id: str,
        preferences: tuple[Preference, ...],
        beta: float | None,
        expected_revision: int | None = None,
        *,
        erases_history: bool = False,
        kept_line: bytes = b"",
    ) -> Profile:
        """Create or replace a profile and return it with its new revision.

        Args:
            tenant: Whose user it is.
            user_id: The user.
            preferences: Checked.
            beta: Checked; None for the server's default.
            expected_revision: Write only if this is stored; 0 is none; None is any.
            erases_history: Keep no earlier revision, nor what was made of the user's texts so far.
            kept_line: Write only if the history has this line; see `restore`.

        Raises:
            HistoryChangedError: It has not.
            ProfileConflictError: Another revision is stored.
            ProfileDamagedError, StoreUnavailableError: See `load`.
        """
        tag = user_tag(tenant, user_id)
        earlier_texts: set[str] = set()
        if erases_history:
            earlier_texts = await self._erasure.earlier_texts(tenant, user_id)
        try:
            profile, old_texts = await self._hashes.put(
                tenant,
                user_id,
                preferences,
                beta,
                expected_revision,
                most_earlier=0 if erases_history else self._options.max_revisions,
                kept_line=kept_line,
            )
        finally:
            self._copies.drop(tag)  # unanswered, it may have been done
        replaced = (old_texts | earlier_texts) - {one.text for one in preferences}
        await self._erasure.forget_replaced(tenant, tag, replaced, is_told=erases_history)
        if erases_history:
            await self._caches.forget(subject_of(tag))
        return profile

    async def history(self, tenant: str, user_id: str) -> History:
        """Return the profile as Redis has it now, and its earlier revisions.

        Raises:
            ProfileNotFoundError, StoreUnavailableError: See `load`.
        """
        return await self._hashes.read_history(tenant, user_id, self._options.max_revisions)

    async def restore(
        self,
        tenant: str,
        user_id: str,
        revision: int,
        expected_revision: int | None,
        check: Callable[[tuple[Preference, ...]], None],
    ) -> Profile:
        """Write what an earlier revision said as a new one, and return that.

        Args:
            tenant: Whose user it is.
            user_id: The user.
            revision: The earlier one.
            expected_revision: Write only if this is stored; None is any.
            check: Given the preferences before they are written; may raise.

        Raises:
            ProfileNotFoundError: The user has no profile, or the revision is not kept.
            InvalidRequestError: The revision is the stored one.
            ProfileConflictError, ProfileDamagedError, StoreUnavailableError: See `put`.
        """
        while True:
            earlier = (await self.history(tenant, user_id)).find(revision)
            its = earlier.profile
            check(its.preferences)
            # Should the profile be erased meanwhile, or the revision, this brings nothing back.
            with suppress(HistoryChangedError):
                return await self.put(
                    tenant,
                    user_id,
                    its.preferences,
                    its.beta,
                    expected_revision,
                    kept_line=earlier.line,
                )

    async def delete(self, tenant: str, user_id: str, expected_revision: int | None = None) -> None:
        """Erase a profile, the encodings of its texts, and the user's place in index and caches.

        Raises:
            ProfileNotFoundError: The user has none.
            ProfileConflictError, ProfileDamagedError, StoreUnavailableError: See `put`.
        """
        tag = user_tag(tenant, user_id)
        try:
            await self._erasure.erase(tenant, user_id, expected_revision)
        finally:
            self._copies.drop(tag)
        await self._caches.forget(subject_of(tag))

    async def list_profiles(
        self, tenant: str, limit: int, after: str = "", max_bytes: float = math.inf
    ) -> list[Profile | DamagedProfile]:
        """Return up to `limit` profiles in the order of their user ids, beginning behind `after`.

        Fewer come back only at the end of the index, or where their texts together have more than
        `max_bytes`.

        Raises:
            ProfileDamagedError: The tenant's index is none.
            StoreUnavailableError: See `load`.
        """
        return await self._hashes.page(tenant, limit, after, max_bytes)

    async def get_encodings(
        self, tenant: str, model_version: str, texts: Iterable[str]
    ) -> dict[str, bytes]:
        """Return those of `texts` that are at hand with their encodings, in one round trip.

        Raises:
            StoreUnavailableError: Redis does not answer.
        """
        return await self._encodings.get(tenant, model_version, texts)

    async def put_encoding(
        self, tenant: str, model_version: str, text: str, encoding: bytes
    ) -> bool:
        """Keep the encoding of `text` by that version of the reward model; say whether it is kept.

        Raises:
            StoreUnavailableError: Redis does not answer.
        """
        return await self._encodings.put(tenant, model_version, text, encoding)

    async def forget_encodings(self, tenant: str, texts: Collection[str]) -> None:
        """Remove the encodings of `texts` by all versions, as their erasure does.

        Raises:
            StoreUnavailableError: Redis does not answer.
        """
        await self._encodings.forget(tenant, texts)

    def _note_gap(self) -> None:
        self._copies.note_gap()
        self._caches.note_gap()
        self._observer.changes_missed()
