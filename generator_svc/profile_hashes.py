"""The profiles as Redis has them: one hash a user, and an index of users a tenant."""

import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import redis.exceptions as redis_errors
from redis.asyncio import Redis

from generator_svc.profile_format import (
    CHANGES_CHANNEL,
    Preference,
    Profile,
    damaged,
    from_fields,
    parse_preferences,
    profile_key,
    to_fields,
    tombstone_key,
    user_tag,
)
from generator_svc.profile_index import UserIndex
from generator_svc.profile_scripts import DELETE, PUT
from generator_svc.redis_calls import answering
from svc_common.errors import ProfileConflictError, ProfileNotFoundError

# Profiles are listed in batches, so that each fits well into the timeout of one operation.
_LIST_BATCH = 100


class ProfileHashes:
    """Reads and writes profiles in Redis; keeps nothing.

    Every method raises `StoreUnavailableError` while Redis does not answer.
    """

    def __init__(self, client: Redis, timeout_s: float, tombstone_ttl_s: float) -> None:
        self._redis = client
        self._timeout_s = timeout_s
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
        key = profile_key(user_tag(tenant, user_id))
        try:
            async with self._answering():
                fields: Any = await self._redis.hgetall(key)  # no text: bytes alone
        except redis_errors.ResponseError as error:
            raise _wrong_type(user_id, error) from error
        if not fields:
            raise _not_found(user_id)
        return from_fields(user_id, fields)

    async def put(
        self,
        tenant: str,
        user_id: str,
        preferences: tuple[Preference, ...],
        beta: float | None,
        expected_revision: int | None,
    ) -> Profile:
        """Create or replace a profile and return it with its new revision.

        Raises:
            ProfileConflictError: Another revision than `expected_revision` is stored.
            ProfileDamagedError: See `read`.
        """
        tag = user_tag(tenant, user_id)
        updated_at = round(time.time(), 3)
        fields = to_fields(preferences, beta, updated_at)
        pairs = [part for field in fields.items() for part in field]
        expected = "" if expected_revision is None else str(expected_revision)
        async with self._answering():
            await self._index.add(tenant, user_id)
            status, revision = await self._put_script(
                keys=[profile_key(tag), tombstone_key(tag)],
                args=[expected, CHANGES_CHANNEL, tag, *pairs],
            )
            if status != b"updated":
                await self._index.correct(tenant, user_id)
        _check_outcome(status, user_id, expected, revision)
        return Profile(user_id, preferences, beta, int(revision), updated_at)

    async def delete(self, tenant: str, user_id: str, expected_revision: int | None) -> list[str]:
        """Erase a profile and return its texts; a damaged one has none that anybody knows.

        Raises:
            ProfileNotFoundError: The user has none.
            ProfileConflictError, ProfileDamagedError: See `put`.
        """
        tag = user_tag(tenant, user_id)
        expected = "" if expected_revision is None else str(expected_revision)
        async with self._answering():
            status, revision, stored = await self._delete_script(
                keys=[profile_key(tag), tombstone_key(tag)],
                args=[expected, CHANGES_CHANNEL, tag, self._tombstone_ttl_ms],
            )
            await self._index.correct(tenant, user_id)
        if status == b"missing":
            raise _not_found(user_id)
        _check_outcome(status, user_id, expected, revision)
        return _texts(stored)

    async def page(self, tenant: str, limit: int, after: str) -> list[Profile]:
        """Return up to `limit` profiles in the order of their user ids, beginning behind `after`.

        Fewer come back only at the end of the index.

        Raises:
            ProfileDamagedError: See `read`.
        """
        profiles: list[Profile] = []
        while len(profiles) < limit:
            size = min(_LIST_BATCH, limit - len(profiles))
            async with self._answering():
                user_ids = await self._index.page(tenant, size, after)
                stored = await self._read_many(tenant, user_ids)
            profiles += [from_fields(user_id, fields) for user_id, fields in stored if fields]
            if len(user_ids) < size:
                break
            after = user_ids[-1]
        return profiles

    async def _read_many(
        self, tenant: str, user_ids: list[str]
    ) -> list[tuple[str, Mapping[bytes, bytes]]]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for user_id in user_ids:
                pipeline.hgetall(profile_key(user_tag(tenant, user_id)))
            stored = await pipeline.execute(raise_on_error=False)
        for user_id, fields in zip(user_ids, stored, strict=True):
            if isinstance(fields, redis_errors.ResponseError):
                raise _wrong_type(user_id, fields) from fields
            if isinstance(fields, Exception):
                raise fields
        return list(zip(user_ids, stored, strict=True))

    def _answering(self) -> AbstractAsyncContextManager[None]:
        return answering(self._timeout_s)


def _check_outcome(status: bytes, user_id: str, expected: str, revision: bytes) -> None:
    if status == b"conflict":
        raise ProfileConflictError(
            f"expected_revision: must be the stored {revision.decode()}, got {expected}"
        )
    if status == b"damaged":
        raise damaged(user_id, "it has no revision")


def _texts(stored_preferences: bytes) -> list[str]:
    """Return the texts of a deleted profile; of a damaged one nobody knows them."""
    try:
        return [preference.text for preference in parse_preferences(stored_preferences)]
    except (ValueError, TypeError):
        return []


def _not_found(user_id: str) -> ProfileNotFoundError:
    return ProfileNotFoundError(f"user_id: must have a profile, got {user_id!r}")


def _wrong_type(user_id: str, error: redis_errors.ResponseError) -> Exception:
    return damaged(user_id, "it is no hash") if str(error).startswith("WRONGTYPE") else error
