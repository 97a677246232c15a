"""Erases profiles, with all that was made of their texts, now and in earlier revisions."""

import logging
from collections.abc import Collection

from generator_svc.encoding_store import EncodingStore
from generator_svc.profile_format import texts_of
from generator_svc.profile_hashes import ProfileHashes
from svc_common.errors import ProfileConflictError, ProfileNotFoundError, StoreUnavailableError

logger = logging.getLogger(__name__)

_MAX_TRIES = 5


class ProfileErasure:
    """What Redis forgets of a user.

    Args:
        hashes: The profiles.
        encodings: Of their texts.
        max_revisions: Earlier ones that are kept of a profile.
    """

    def __init__(self, hashes: ProfileHashes, encodings: EncodingStore, max_revisions: int) -> None:
        self._hashes = hashes
        self._encodings = encodings
        self._max_revisions = max_revisions

    async def erase(self, tenant: str, user_id: str, expected_revision: int | None) -> None:
        """Erase a profile and the encodings of its texts.

        Encodings go first: if this fails half-way, the profile is there to be erased again.

        Raises:
            ProfileNotFoundError: The user has none.
            ProfileConflictError, ProfileDamagedError, StoreUnavailableError: It was not.
        """
        for _ in range(_MAX_TRIES):
            seen = await self._hashes.read_preferences(tenant, user_id)
            texts = texts_of(seen) | await self.earlier_texts(tenant, user_id)
            await self._encodings.forget(tenant, texts)
            if await self._hashes.delete(tenant, user_id, expected_revision, seen):
                return
        rule = f"must not change while it is erased, did so {_MAX_TRIES} times"
        raise ProfileConflictError(f"user_id: the profile {rule}")

    async def earlier_texts(self, tenant: str, user_id: str) -> set[str]:
        """Return texts of earlier revisions: their encodings may have stayed when they went."""
        try:
            history = await self._hashes.read_history(tenant, user_id, self._max_revisions)
        except ProfileNotFoundError:
            return set()
        return history.texts

    async def forget_replaced(
        self, tenant: str, tag: str, texts: Collection[str], *, is_told: bool
    ) -> None:
        """Remove encodings of texts that a write replaced: whoever erases later knows them no more.

        The write is done. What cannot be removed now expires by itself.

        Args:
            tenant: Whose they are.
            tag: The user's.
            texts: No profile of the user has them any more.
            is_told: Whether other processes are to clear caches of the user.
        """
        try:
            await self._encodings.forget(tenant, texts)
            if is_told:
                await self._hashes.tell_erasure(tag)
        except StoreUnavailableError:
            logger.warning("encodings and caches of replaced texts stay until they expire")
