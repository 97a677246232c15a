"""The profiles as Redis has them: one hash a user, and an index of users a tenant."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from generator_svc.profile_format import (
    CHANGES_CHANNEL,
    ERASURES_CHANNEL,
    Preference,
    Profile,
    damaged,
    from_stored,
    profile_key,
    subject_of,
    texts_of,
    to_fields,
    tombstone_key,
    user_tag,
    users_key,
)
from generator_svc.profile_history import History, parse_history
from generator_svc.profile_index import UserIndex, user_id_of
from generator_svc.profile_scripts import DELETE, PUT, READ, READ_HISTORY, TELL
from generator_svc.redis_client import RedisClient
from generator_svc.store_health import StoreHealth
from svc_common.errors import ProfileConflictError, ProfileDamagedError, ProfileNotFoundError

# Profiles are listed in batches, so that each fits well into the timeout of one operation, and is
# read from its JSON (1 ms for the largest profile) while others wait.
_LIST_BATCH = 32
_Stored = Sequence[bytes | None]


@dataclass(frozen=True)
class DamagedProfile:
    """Stands in a list for a user whose profile cannot be read."""

    user_id: str


class HistoryChangedError(Exception):
    """A revision that was to be restored is not kept any more."""


class ProfileHashes:
    """Reads and writes profiles in Redis; keeps nothing.

    Every method raises `StoreUnavailableError` while Redis does not answer.
    """

    def __init__(self, client: RedisClient, health: StoreHealth, tombstone_ttl_s: float) -> None:
        self._redis = client
        self._health = health
        self._tombstone_ttl_ms = int(tombstone_ttl_s * 1000)
        self._put_script = client.register_script(PUT)
        self._delete_script = client.register_script(DELETE)
        self._index = UserIndex(client)

    async def read(self, tenant: str, user_id: str) -> Profile:
        """Return the profile as it is now.

        Raises:
            ProfileNotFoundError: The user has none.
            ProfileDamagedError: What Redis holds is no profile.
        """
        stored = await self._read(tenant, user_id)
        if stored[0] == b"none":
            raise _not_found(user_id)
        return from_stored(user_id, stored)

    async def read_history(self, tenant: str, user_id: str, most: int) -> History:
        """Return the profile as it is now, and up to `most` earlier revisions.

        Raises:
            ProfileNotFoundError: The user has none.
        """
        key = profile_key(user_tag(tenant, user_id))
        async with self._health.answering(key):
            found: Any = await self._redis.eval(READ_HISTORY, 1, key)
        *stored, history = found
        if stored[0] == b"none":
            raise _not_found(user_id)
        current = _or_damaged(user_id, stored)
        readable = None if isinstance(current, DamagedProfile) else current
        return parse_history(user_id, readable, history or b"", most)

    async def read_preferences(self, tenant: str, user_id: str) -> bytes:
        """Return the preferences as they are stored, whatever they are; empty if there are none."""
        return (await self._read(tenant, user_id))[2] or b""

    async def put(
        self,
        tenant: str,
        user_id: str,
        preferences: tuple[Preference, ...],
        beta: float | None,
        expected_revision: int | None,
        *,
        most_earlier: int,
        kept_line: bytes = b"",
    ) -> tuple[Profile, set[str]]:
        """Create or replace a profile; return it with its new revision, and texts it had before.

        Args:
            tenant: Whose user it is.
            user_id: The user.
            preferences: Checked.
            beta: Checked; None for the server's default.
            expected_revision: Write only if this is stored; 0 is none; None is any.
            most_earlier: Revisions that are kept beside the new one.
            kept_line: Write only if the history has this line; empty: whatever it has.

        Raises:
            HistoryChangedError: It has not.
            ProfileConflictError: Another revision than `expected_revision` is stored.
            ProfileDamagedError: See `read`.
        """
        tag = user_tag(tenant, user_id)
        updated_at = round(time.time(), 3)
        fields = to_fields(preferences, beta, updated_at)
        pairs = [part for field in fields.items() for part in field]
        expected = "" if expected_revision is None else str(expected_revision)
        async with self._health.answering(users_key(tenant), profile_key(tag)):
            await self._index.add(tenant, user_id)
            status, revision, old = await self._put_script(
                keys=[profile_key(tag), tombstone_key(tag)],
                args=[expected, CHANGES_CHANNEL, tag, most_earlier, kept_line, *pairs],
            )
            if status != b"updated":
                await self._index.correct(tenant, user_id)
        if status == b"missing":
            raise _not_found(user_id)
        if status == b"changed":
            raise HistoryChangedError
        _check_outcome(status, user_id, expected, revision)
        return Profile(user_id, preferences, beta, int(revision), updated_at), texts_of(old)

    async def delete(
        self, tenant: str, user_id: str, expected_revision: int | None, seen: bytes
    ) -> bool:
        """Erase a profile unless its preferences are other than `seen`; say whether it was done.

        Raises:
            ProfileNotFoundError: The user has none.
            ProfileConflictError, ProfileDamagedError: See `put`.
        """
        tag = user_tag(tenant, user_id)
        expected = "" if expected_revision is None else str(expected_revision)
        messages = [CHANGES_CHANNEL, tag, ERASURES_CHANNEL, subject_of(tag).hex()]
        async with self._health.answering(users_key(tenant), profile_key(tag)):
            status, revision = await self._delete_script(
                keys=[profile_key(tag), tombstone_key(tag)],
                args=[expected, seen, *messages, self._tombstone_ttl_ms],
            )
            await self._index.correct(tenant, user_id)
        if status == b"missing":
            raise _not_found(user_id)
        _check_outcome(status, user_id, expected, revision)
        return bool(status == b"deleted")

    async def tell_erasure(self, tag: str) -> None:
        """Have all processes that listen drop what they keep for a user."""
        key = profile_key(tag)
        async with self._health.answering(key):
            await self._redis.eval(TELL, 1, key, ERASURES_CHANNEL, subject_of(tag).hex())

    async def page(
        self, tenant: str, limit: int, after: str, max_bytes: float
    ) -> list[Profile | DamagedProfile]:
        """Return up to `limit` profiles in the order of their user ids, beginning behind `after`.

        Fewer come back only at the end of the index, or where their texts together have more than
        `max_bytes`.

        Raises:
            ProfileDamagedError: The index itself is none.
        """
        profiles: list[Profile | DamagedProfile] = []
        num_bytes = 0
        start = after.encode() if after else None
        while len(profiles) < limit:
            size = min(_LIST_BATCH, limit - len(profiles))
            async with self._health.answering(users_key(tenant)):
                members = await self._index.page(tenant, size, start)
            user_ids = [user_id for user_id in map(user_id_of, members) if user_id]
            stored = await self._read_many(tenant, user_ids)
            pairs = zip(user_ids, stored, strict=True)
            found = [_or_damaged(user_id, its) for user_id, its in pairs if its[0] != b"none"]
            profiles += found
            num_bytes += sum(map(_num_text_bytes, found))
            if len(members) < size or num_bytes > max_bytes:
                break
            start = members[-1]
        return profiles

    async def _read(self, tenant: str, user_id: str) -> _Stored:
        key = profile_key(user_tag(tenant, user_id))
        async with self._health.answering(key):
            stored: Any = await self._redis.eval(READ, 1, key)
        return tuple(stored)

    async def _read_many(self, tenant: str, user_ids: list[str]) -> list[_Stored]:
        keys = [profile_key(user_tag(tenant, user_id)) for user_id in user_ids]
        if not keys:
            return []
        async with self._health.answering(*keys):
            return await self._redis.eval_each(READ, [(key,) for key in keys])


def _or_damaged(user_id: str, stored: _Stored) -> Profile | DamagedProfile:
    """Return the profile; one that cannot be read must not hide those of all others."""
    try:
        return from_stored(user_id, stored)
    except ProfileDamagedError:
        return DamagedProfile(user_id)


def _num_text_bytes(profile: Profile | DamagedProfile) -> int:
    if isinstance(profile, DamagedProfile):
        return 0
    return sum(len(preference.text.encode()) for preference in profile.preferences)


def _check_outcome(status: bytes, user_id: str, expected: str, revision: bytes) -> None:
    if status == b"conflict":
        raise ProfileConflictError(
            f"expected_revision: must be the stored {revision.decode()}, got {expected}"
        )
    if status == b"damaged":
        raise damaged(user_id, "it has no revision")


def _not_found(user_id: str) -> ProfileNotFoundError:
    return ProfileNotFoundError(f"user_id: must have a profile, got {user_id!r}")
