"""Keeps profiles in Redis, with copies in this process for while it is slow or away."""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Self

from redis.asyncio import Redis

from generator_svc.encoding_store import EncodingStore
from generator_svc.profile_cache import LocalCache, SharedReads
from generator_svc.profile_changes import ChangeListener
from generator_svc.profile_format import Preference, Profile, subject_of, texts_of, user_tag
from generator_svc.profile_hashes import DamagedProfile, HistoryChangedError, ProfileHashes
from generator_svc.profile_history import History
from generator_svc.redis_calls import connect
from generator_svc.store_health import Patience, StoreHealth
from generator_svc.store_ports import Caches, LookupSource, StoreObserver, StoreOptions
from svc_common.errors import (
    ProfileConflictError,
    ProfileDamagedError,
    ProfileNotFoundError,
    StoreUnavailableError,
)

logger = logging.getLogger(__name__)

__all__ = [
    "DamagedProfile",
    "LookupSource",
    "Preference",
    "Profile",
    "ProfileStore",
    "StoreOptions",
    "connect",
]

_MAX_ERASURE_TRIES = 5


class ProfileStore:
    """The profiles of all tenants, and encodings of their texts; an async context manager.

    Attributes:
        changes: Hears what other processes change; local copies end by age while it does not.
        health: Knows whether Redis answers.
    """

    def __init__(
        self, client: Redis, options: StoreOptions, observer: StoreObserver, caches: Caches
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
        patience = Patience(options.timeout_s, options.quick_s, options.probe_interval_s)
        self.health = StoreHealth(client, patience, observer.store_failure, observer.store_is_up)
        self._hashes = ProfileHashes(client, self.health, options.tombstone_ttl_s)
        self._encodings = EncodingStore(client, self.health, options.encoding_ttl_s)
        self._local: LocalCache[Profile] = LocalCache(options.max_local_profiles)
        self._reads: SharedReads[Profile] = SharedReads()
        self.changes = ChangeListener(
            client, on_change=self._drop, on_erasure=caches.note_erasure, on_gap=self._drop_all
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._observer.store_is_up(True)
        self._tasks = [
            asyncio.ensure_future(self.changes.run()),
            asyncio.ensure_future(self._expire_copies()),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self.health.close()
        await self._redis.aclose()

    async def load(self, tenant: str, user_id: str) -> Profile:
        """Return the profile to write an answer with: a local copy if there is a fresh one.

        Raises:
            ProfileNotFoundError: The user has none.
            ProfileDamagedError: What Redis holds is no profile.
            StoreUnavailableError: Redis does not answer, and there is no recent copy.
        """
        tag = user_tag(tenant, user_id)
        copy = self._local.get(tag, self._options.local_ttl_s)
        if copy is not None:
            self._observer.profile_lookup("local")
            return copy
        copy = self._local.get(tag, self._options.stale_window_s)
        has_other = copy is not None or self.health.is_suspect
        within_s = self._options.quick_s if has_other else self._options.timeout_s
        try:
            profile = await self._reads.read(
                tag, lambda: self._read_and_keep(tenant, user_id), within_s
            )
        except (StoreUnavailableError, TimeoutError) as error:
            copy = self._local.get(tag, self._options.stale_window_s)
            self._observer.profile_lookup("unavailable" if copy is None else "stale")
            if copy is not None:
                return copy
            if isinstance(error, StoreUnavailableError):
                raise
            rule = f"did not answer within {within_s} s"
            raise StoreUnavailableError(f"profile store: {rule}", retry_after_s=1.0) from error
        except ProfileDamagedError:
            self._observer.profile_lookup("damaged")
            raise
        self._observer.profile_lookup("redis")
        return profile

    async def get(self, tenant: str, user_id: str) -> Profile:
        """Return the profile as Redis has it now.

        Raises:
            ProfileNotFoundError, ProfileDamagedError, StoreUnavailableError: See `load`.
        """
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
        earlier_texts = await self._earlier_texts(tenant, user_id) if erases_history else set()
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
            self._drop(tag)  # unanswered, it may have been done
        # Whoever erases the profile later does not know them any more.
        old_texts = (old_texts | earlier_texts) - {one.text for one in preferences}
        try:
            await self._encodings.forget(tenant, old_texts)
            if erases_history:
                await self._hashes.tell_erasure(tag)  # other processes
        except StoreUnavailableError:
            logger.warning("encodings and caches of replaced texts stay until they expire")
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

        A tombstone stays for `tombstone_ttl_s`: the last revision under the user's name.
        Encodings go first: if this fails half-way, the profile is there to be erased again.

        Raises:
            ProfileNotFoundError: The user has none.
            ProfileConflictError, ProfileDamagedError, StoreUnavailableError: See `put`.
        """
        tag = user_tag(tenant, user_id)
        try:
            await self._erase(tenant, user_id, expected_revision)
        finally:
            self._drop(tag)
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

    async def _erase(self, tenant: str, user_id: str, expected_revision: int | None) -> None:
        for _ in range(_MAX_ERASURE_TRIES):
            seen = await self._hashes.read_preferences(tenant, user_id)
            texts = texts_of(seen) | await self._earlier_texts(tenant, user_id)
            await self._encodings.forget(tenant, texts)
            if await self._hashes.delete(tenant, user_id, expected_revision, seen):
                return
        rule = f"must not change while it is erased, did so {_MAX_ERASURE_TRIES} times"
        raise ProfileConflictError(f"user_id: the profile {rule}")

    async def _earlier_texts(self, tenant: str, user_id: str) -> set[str]:
        """Return texts of earlier revisions: their encodings may have stayed when they went."""
        try:
            return (await self.history(tenant, user_id)).texts
        except ProfileNotFoundError:
            return set()

    async def _read_and_keep(self, tenant: str, user_id: str) -> Profile:
        tag = user_tag(tenant, user_id)
        try:
            profile = await self._hashes.read(tenant, user_id)
        except ProfileNotFoundError:
            self._local.discard(tag)
            raise
        if self._reads.is_current(tag):  # else it changed while we read
            self._local.put(tag, profile)
        return profile

    def _drop(self, tag: str) -> None:
        self._local.discard(tag)
        self._reads.supersede(tag)

    def _drop_all(self) -> None:
        self.health.note_answer()  # else who listens could not have begun
        self._local.clear()
        self._reads.supersede_all()
        self._caches.note_gap()
        self._observer.changes_missed()

    async def _expire_copies(self) -> None:
        """Forget copies that serve no more, asked for or not."""
        while True:
            await asyncio.sleep(self._options.expiry_interval_s)
            self._local.drop_older(max(self._options.local_ttl_s, self._options.stale_window_s))
