"""Keeps profiles in Redis, with copies in this process for while it is slow or away."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Self

from redis.asyncio import Redis

from generator_svc.encoding_store import EncodingStore
from generator_svc.profile_cache import LocalCache, SharedReads
from generator_svc.profile_changes import ChangeListener
from generator_svc.profile_format import Preference, Profile, user_tag
from generator_svc.profile_hashes import ProfileHashes
from generator_svc.redis_calls import connect
from svc_common.errors import ProfileNotFoundError, StoreUnavailableError

__all__ = ["LookupSource", "Preference", "Profile", "ProfileStore", "StoreOptions", "connect"]

LookupSource = Literal["local", "redis", "stale", "inline", "unavailable"]


@dataclass(frozen=True)
class StoreOptions:
    """How long the store waits and how long things stay; all in seconds but `max_local_profiles`.

    Attributes:
        timeout_s: Redis is unavailable if an operation takes longer.
        local_ttl_s: A local copy serves for this long unless it is told to be outdated.
        stale_window_s: Age up to which a local copy serves while Redis is unavailable.
        max_local_profiles: Local copies kept.
        encoding_ttl_s: An encoding stays in Redis for this long.
        tombstone_ttl_s: A deleted profile's revision is remembered for this long.
    """

    timeout_s: float = 0.15
    local_ttl_s: float = 30.0
    stale_window_s: float = 600.0
    max_local_profiles: int = 10_000
    encoding_ttl_s: float = 86_400.0
    tombstone_ttl_s: float = 600.0


class ProfileStore:
    """The profiles of all tenants, and encodings of their texts; an async context manager.

    Attributes:
        changes: Hears what other processes change; local copies end by age while it does not.
    """

    def __init__(
        self, client: Redis, options: StoreOptions, on_lookup: Callable[[LookupSource], None]
    ) -> None:
        """Make a store.

        Args:
            client: From `connect`; closed with the store.
            options: Times and limits.
            on_lookup: Told of each `load` where the profile came from.
        """
        self._redis = client
        self._options = options
        self._on_lookup = on_lookup
        self._hashes = ProfileHashes(client, options.timeout_s, options.tombstone_ttl_s)
        self._encodings = EncodingStore(client, options.timeout_s, options.encoding_ttl_s)
        self._local: LocalCache[Profile] = LocalCache(options.max_local_profiles)
        self._reads: SharedReads[Profile] = SharedReads()
        self.changes = ChangeListener(client, on_change=self._drop, on_gap=self._drop_all)
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._listening = asyncio.ensure_future(self.changes.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait((self._listening,))
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
            self._on_lookup("local")
            return copy
        try:
            profile = await self._reads.read(tag, lambda: self._read_and_keep(tenant, user_id))
        except StoreUnavailableError:
            copy = self._local.get(tag, self._options.stale_window_s)
            self._on_lookup("unavailable" if copy is None else "stale")
            if copy is None:
                raise
            return copy
        self._on_lookup("redis")
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
    ) -> Profile:
        """Create or replace a profile and return it with its new revision.

        Args:
            tenant: Whose user it is.
            user_id: The user.
            preferences: Checked.
            beta: Checked; None for the server's default.
            expected_revision: Write only if this is stored; 0 is none; None is any.

        Raises:
            ProfileConflictError: Another revision is stored.
            ProfileDamagedError, StoreUnavailableError: See `load`.
        """
        try:
            return await self._hashes.put(tenant, user_id, preferences, beta, expected_revision)
        finally:
            self._drop(user_tag(tenant, user_id))  # unanswered, it may have been done

    async def delete(self, tenant: str, user_id: str, expected_revision: int | None = None) -> None:
        """Erase a profile, the encodings of its texts, and the user's place in the index.

        A tombstone stays for `tombstone_ttl_s`: the last revision under the user's name.

        Raises:
            ProfileNotFoundError: The user has none.
            ProfileConflictError, ProfileDamagedError, StoreUnavailableError: See `put`.
        """
        try:
            texts = await self._hashes.delete(tenant, user_id, expected_revision)
        finally:
            self._drop(user_tag(tenant, user_id))
        await self._encodings.forget(texts)

    async def list_profiles(self, tenant: str, limit: int, after: str = "") -> list[Profile]:
        """Return up to `limit` profiles in the order of their user ids, beginning behind `after`.

        Fewer come back only at the end of the index.

        Raises:
            ProfileDamagedError, StoreUnavailableError: See `load`.
        """
        return await self._hashes.page(tenant, limit, after)

    async def get_encodings(self, model_version: str, texts: Iterable[str]) -> dict[str, bytes]:
        """Return those of `texts` that are at hand with their encodings, in one round trip.

        Raises:
            StoreUnavailableError: Redis does not answer.
        """
        return await self._encodings.get(model_version, texts)

    async def put_encoding(self, model_version: str, text: str, encoding: bytes) -> None:
        """Keep the encoding of `text` by that version of the reward model.

        Raises:
            StoreUnavailableError: Redis does not answer.
        """
        await self._encodings.put(model_version, text, encoding)

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
        self._local.clear()
        self._reads.supersede_all()
