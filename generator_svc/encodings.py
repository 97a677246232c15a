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

    async def encode(
        self,
        preferences: tuple[Preference, ...],
        tenant: str,
        subject: bytes,
        timeout_s: float = TIMEOUT_S,
    ) -> tuple[EncodedPreference, ...]:
        """Return the preferences of a tenant's user, by its opaque name, with their encodings.

        There are `timeout_s` for it. Where replicas serve several versions of the reward model,
        each version's are found: nobody knows yet on which the answer will be.

        An encoding spares work and is never needed: while store or reward service is away, the
        preference goes without, and the session finds out by itself.
        """
        versions = sorted(self._calls.model_versions)
        texts = [preference.text for preference in preferences]
        found = await asyncio.gather(
            *(self._find(version, texts, tenant, subject, timeout_s) for version in versions)
        )
        by_version = dict(zip(versions, found, strict=True))
        return tuple(
            EncodedPreference(
                preference.text,
                preference.weight,
                {v: kept[preference.text] for v, kept in by_version.items()
                 if preference.text in kept},
            )
            for preference in preferences
        )  # fmt: skip

    async def _find(
        self, version: str, texts: list[str], tenant: str, subject: bytes, timeout_s: float
    ) -> dict[str, bytes]:
        try:
            kept = await self._store.get_encodings(tenant, version, texts)
        except StoreUnavailableError:  # nor could be kept what is computed
            return {}
        missing = [text for text in texts if text not in kept]
        if not missing:
            return kept
        return kept | await self._compute(version, missing, tenant, subject, timeout_s)

    async def _compute(
        self, version: str, texts: list[str], tenant: str, subject: bytes, timeout_s: float
    ) -> dict[str, bytes]:
        """Ask the reward service, and keep what came from the version we asked for."""
        ask = self._calls.encode_preference
        try:
            answers = await asyncio.gather(
                *(ask(text, subject, timeout_s, version) for text in texts)
            )
        except ServiceError:
            return {}
        pairs = zip(texts, answers, strict=True)
        encodings = {text: encoding for text, (answered, encoding) in pairs if answered == version}
        try:
            async with asyncio.TaskGroup() as group:
                for text, encoding in encodings.items():
                    group.create_task(self._store.put_encoding(tenant, version, text, encoding))
        except* StoreUnavailableError:
            logger.warning("encodings not kept: profile store is unavailable")
        return encodings
