"""Encodes stored preferences for a new version of the reward model before anybody asks for them.

Only where encodings are vectors, which take a forward of the reward model: without this each user's
first answer by the new version would wait for theirs.
"""

import asyncio
import logging

from generator_svc.encoding_round import AheadObserver, AheadOptions, EncodingRound
from generator_svc.engine.scorer import RewardQueries
from generator_svc.lease import Lease, LeaseLostError
from generator_svc.profiles import ProfileStore
from generator_svc.redis_client import RedisClient
from svc_common.errors import ServiceError

logger = logging.getLogger(__name__)


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
        client: RedisClient,
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
        self._told: dict[str, str] = {}  # why the last try for a version came to nothing

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
        except (ServiceError, LeaseLostError) as error:
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
        done = f"pad:v1:encoded:{version}"
        health = self._store.health
        if await self._exists(done):
            return True
        lease = Lease(self._redis, health, f"pad:v1:encoding:{version}", self._options.lease_s)
        if not await lease.take():
            return False
        if await self._exists(done):  # another process had finished before it left the lease to us
            await lease.release()
            return True
        logger.info("encoding stored preferences", extra={"model_version": version})
        pause_s = 0.0
        try:
            num_failed = await self._round(version, lease).run()
            await lease.keep(is_sure=True)
            if num_failed:  # nobody tries them again at once
                pause_s = self._options.retry_s
            else:  # those of this round will be missing one by one when the next but one begins
                async with health.clearing(done):
                    await self._redis.set(done, "1", px=max(1, int(self._options.ttl_s * 500)))
        finally:
            await lease.release(pause_s)
        values = {"model_version": version, "num_failed": num_failed}
        if num_failed:
            logger.warning("not all stored preferences could be encoded", extra=values)
        else:
            logger.info("stored preferences are encoded", extra=values)
        return not num_failed

    async def _exists(self, key: str) -> bool:
        async with self._store.health.clearing(key):
            return bool(await self._redis.exists(key))

    def _round(self, version: str, lease: Lease) -> EncodingRound:
        return EncodingRound(
            self._redis,
            self._store,
            self._queries,
            self._observer,
            self._options,
            version,
            lease,
        )
