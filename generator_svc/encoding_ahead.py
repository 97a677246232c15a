"""Encodes stored preferences for a new version of the reward model before anybody asks for them.

Only where encodings are vectors, which take a forward of the reward model: without this each user's
first answer by the new version would wait for theirs.
"""

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass
from typing import Any, Protocol

from redis.asyncio import Redis

from generator_svc.encodings import TIMEOUT_S
from generator_svc.engine.scorer import RewardQueries
from generator_svc.profile_format import profile_key, subject_of, texts_of
from generator_svc.profile_scripts import READ
from generator_svc.profiles import ProfileStore
from svc_common.errors import (
    InvalidRequestError,
    OverloadedError,
    RewardUnavailableError,
    ServiceError,
)

logger = logging.getLogger(__name__)

SCAN_COUNT = 200  # keys that Redis looks at in one go
MAX_BATCH = 50  # profiles read in one go
LEASE_S = 30.0  # a generator that died leaves its round to another after this
_PREFERENCES = 2  # place in what READ returns
_PATTERN = profile_key("*")
_TAG = slice(_PATTERN.index("*"), -len(_PATTERN.partition("*")[2]))


class AheadObserver(Protocol):
    """Receives how far it is; must be quick."""

    def encoded_ahead(self, outcome: str) -> None:
        """Say what became of a text: `computed`, `kept` (it was there) or `failed`."""

    def versions_ahead(self, num_complete: int, num_missing: int) -> None:
        """Say for how many versions in reach all is encoded, and for how many it is not."""


@dataclass(frozen=True)
class AheadOptions:
    """How much it may take.

    Attributes:
        per_s: Encodings computed a second, by all generators together; 0: none.
        ttl_s: How long the store keeps an encoding.
        interval_s: How often new versions are looked for.
    """

    per_s: float
    ttl_s: float
    interval_s: float = 2.0


class EncodingAhead:
    """Works through all profiles, once a version; of several generators one does it at a time.

    Args:
        client: Redis, where the rounds are noted.
        store: Whose profiles and encodings.
        queries: Ask the reward replicas.
        observer: Told how far it is.
        options: How much it may take.
    """

    def __init__(
        self,
        client: Redis,
        store: ProfileStore,
        queries: RewardQueries,
        observer: AheadObserver,
        options: AheadOptions,
    ) -> None:
        self._redis = client
        self._store = store
        self._queries = queries
        self._observer = observer
        self._options = options
        self._name = secrets.token_hex(8)
        self._renew_at = 0.0
        self._told: dict[str, str] = {}  # why the last try for a version was broken off

    async def run(self) -> None:
        """Work until cancelled; there is nothing to do where the rate is 0."""
        while self._options.per_s:
            versions = sorted(self._queries.vector_versions)
            num_complete = 0
            for version in versions:
                num_complete += await self._try(version)
            self._observer.versions_ahead(num_complete, len(versions) - num_complete)
            await asyncio.sleep(self._options.interval_s)

    async def _try(self, version: str) -> bool:
        """Look after a version, come what may; say whether all is encoded.

        This spares work and is never needed, but runs among the parts of the service, of which a
        failed one ends the process: not even a bug here may do that.
        """
        try:
            is_complete = await self._look_after(version)
        except ServiceError as error:
            self._tell_once(version, error)
            return False
        except Exception as error:
            self._tell_once(version, error, is_bug=True)
            return False
        self._told.pop(version, None)
        return is_complete

    def _tell_once(self, version: str, error: Exception, *, is_bug: bool = False) -> None:
        """Log why it does not go on, not each time that it is tried again."""
        reason = type(error).__name__
        if self._told.get(version) != reason:
            self._told[version] = reason
            logger.log(
                logging.ERROR if is_bug else logging.WARNING,
                "encoding ahead was broken off",
                extra={"model_version": version, "reason": reason},
                exc_info=error if is_bug else None,
            )

    async def _look_after(self, version: str) -> bool:
        """Do a version's round if it is due and nobody else does; say whether all is encoded.

        Raises:
            ServiceError: Store or replicas went away; what was done is kept.
        """
        done, lease = f"pad:v1:encoded:{version}", f"pad:v1:encoding:{version}"
        async with self._store.health.clearing():
            if await self._redis.exists(done):
                return True
            is_ours = await self._redis.set(lease, self._name, nx=True, px=int(LEASE_S * 1000))
        if not is_ours:
            return False
        logger.info("encoding stored preferences", extra={"model_version": version})
        self._renew_at = time.monotonic() + LEASE_S / 3
        try:
            await self._round(version, lease)
            # Those of this round will be missing one after the other when the next but one begins.
            async with self._store.health.clearing():
                await self._redis.set(done, "1", px=max(1, int(self._options.ttl_s * 500)))
        finally:
            async with self._store.health.clearing():
                await self._redis.delete(lease)
        logger.info("stored preferences are encoded", extra={"model_version": version})
        return True

    async def _round(self, version: str, lease: str) -> None:
        cursor = 0
        while True:
            async with self._store.health.clearing():
                found: Any = await self._redis.scan(cursor, _PATTERN, SCAN_COUNT)
            cursor, keys = found
            for start in range(0, len(keys), MAX_BATCH):
                for tag, texts in await self._read(keys[start : start + MAX_BATCH]):
                    await self._encode(version, lease, tag, texts)
            if cursor == 0:
                return

    async def _read(self, keys: list[bytes]) -> list[tuple[str, list[str]]]:
        """Return whose profiles these are, and the texts of each."""
        async with (
            self._store.health.clearing(),
            self._redis.pipeline(transaction=False) as pipeline,
        ):
            for key in keys:
                pipeline.eval(READ, 1, key)
            stored = await pipeline.execute()
        tags = [key.decode(errors="replace")[_TAG] for key in keys]
        texts = [sorted(texts_of(fields[_PREFERENCES] or b"")) for fields in stored]
        return list(zip(tags, texts, strict=True))

    async def _encode(self, version: str, lease: str, tag: str, texts: list[str]) -> None:
        if not texts:
            return
        kept = await self._store.get_encodings(_tenant(tag), version, texts)
        for text in texts:
            if text in kept:
                self._observer.encoded_ahead("kept")
                continue
            await self._keep_lease(lease)
            began = time.monotonic()
            is_done = await self._compute(version, tag, text)
            self._observer.encoded_ahead("computed" if is_done else "failed")
            await asyncio.sleep(max(0.0, began + 1 / self._options.per_s - time.monotonic()))

    async def _compute(self, version: str, tag: str, text: str) -> bool:
        """Have a text encoded and keep that; say whether it came to it.

        Raises:
            RewardUnavailableError: No replica has that version any more.
        """
        try:
            answered, encoding = await self._queries.encode_preference(
                text, subject_of(tag), TIMEOUT_S, version
            )
        except (InvalidRequestError, OverloadedError):  # of this text, or at this moment
            return False
        if answered != version:
            raise RewardUnavailableError(f"reward model {version}: is not served any more")
        await self._store.put_encoding(_tenant(tag), version, text, encoding)
        return True

    async def _keep_lease(self, lease: str) -> None:
        if time.monotonic() >= self._renew_at:
            async with self._store.health.clearing():
                await self._redis.set(lease, self._name, px=int(LEASE_S * 1000))
            self._renew_at = time.monotonic() + LEASE_S / 3


def _tenant(tag: str) -> str:
    return tag.partition(":")[0]
