"""Preference encodings for a request: from Redis, else from the reward service and then kept."""

import asyncio
import logging

from generator_svc.engine.scorer import EncodedPreference, RewardQueries
from generator_svc.profiles import Preference, ProfileStore
from svc_common.errors import ServiceError, StoreUnavailableError

logger = logging.getLogger(__name__)

TIMEOUT_S = 2.0  # a replica that hangs must not hold up a request for what it can do without


class PreferenceEncodings:
    """Finds what the reward model needs to know of each preference, once per model version."""

    def __init__(self, store: ProfileStore, calls: RewardQueries) -> None:
        self._store = store
        self._calls = calls

    async def encode(self, preferences: tuple[Preference, ...]) -> tuple[EncodedPreference, ...]:
        """Return the preferences with their encodings.

        An encoding spares work and is never needed: while store or reward service is away, the
        preference goes without, and the session finds out by itself.
        """
        version = self._calls.model_version
        texts = [preference.text for preference in preferences]
        kept = await self._read(version, texts) if version else {}
        missing = [text for text in texts if text not in kept] if version else []
        kept |= await self._compute(version, missing) if missing else {}
        return tuple(
            EncodedPreference(
                preference.text, preference.weight, kept.get(preference.text, b""), version
            )
            for preference in preferences
        )

    async def _read(self, version: str, texts: list[str]) -> dict[str, bytes]:
        try:
            return await self._store.get_encodings(version, texts)
        except StoreUnavailableError:
            return {}

    async def _compute(self, version: str, texts: list[str]) -> dict[str, bytes]:
        """Ask the reward service, and keep what came from the version we asked for."""
        try:
            answers = await asyncio.gather(
                *(self._calls.encode_preference(text, TIMEOUT_S) for text in texts)
            )
        except ServiceError:
            return {}
        pairs = zip(texts, answers, strict=True)
        encodings = {text: encoding for text, (answered, encoding) in pairs if answered == version}
        try:
            for text, encoding in encodings.items():
                await self._store.put_encoding(version, text, encoding)
        except StoreUnavailableError:
            logger.warning("encodings not kept: profile store is unavailable")
        return encodings
