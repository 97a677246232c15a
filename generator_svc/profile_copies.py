"""The profiles that requests are written with: copies in this process over what Redis has."""

import asyncio
from collections.abc import Awaitable, Callable

from generator_svc.profile_cache import LocalCache, SharedReads
from generator_svc.profile_format import Profile, profile_key, user_tag
from generator_svc.store_health import StoreHealth
from generator_svc.store_ports import StoreObserver, StoreOptions
from svc_common.errors import ProfileDamagedError, ProfileNotFoundError, StoreUnavailableError


class ProfileCopies:
    """Keeps what was read for a while: fresh it spares a read, older it serves in an outage.

    Args:
        read: Reads a tenant's user's profile from Redis.
        health: Says whether what has a profile is down.
        options: Times and limits.
        observer: Told where profiles come from.
    """

    def __init__(
        self,
        read: Callable[[str, str], Awaitable[Profile]],
        health: StoreHealth,
        options: StoreOptions,
        observer: StoreObserver,
    ) -> None:
        self._read = read
        self._health = health
        self._options = options
        self._observer = observer
        self._local: LocalCache[Profile] = LocalCache(options.max_local_profiles)
        self._reads: SharedReads[Profile] = SharedReads()
        self._unheard: set[str] = set()  # tags whose changes may have been missed

    async def load(self, tenant: str, user_id: str) -> Profile:
        """Return a profile: a local copy if there is a fresh one, or no other way.

        Raises:
            ProfileNotFoundError: The user has none.
            ProfileDamagedError: What Redis holds is no profile.
            StoreUnavailableError: Redis does not answer, and there is no recent copy.
        """
        tag = user_tag(tenant, user_id)
        copy = self._local.get(tag, self._options.local_ttl_s)
        if copy is not None and tag not in self._unheard:
            self._observer.profile_lookup("local")
            return copy
        copy = self._local.get(tag, self._options.stale_window_s)
        has_other = copy is not None or self._health.is_suspect(profile_key(tag))
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

    def drop(self, tag: str) -> None:
        """Forget a profile that changed."""
        self._local.discard(tag)
        self._reads.supersede(tag)

    def note_gap(self) -> None:
        """Hear that changes of any profile may have been missed."""
        self._unheard = self._local.keys()
        self._reads.supersede_all()
        self.drop_unheard()

    def drop_unheard(self) -> None:
        """Forget profiles that may have changed, but those of a node that is down.

        Of these nothing better can be had, and they serve for that time: else the loss of the
        cluster's node at which we listen would take the copies of its users with it.
        """
        kept = self._unheard if self._health.has_down else set()
        kept = {tag for tag in kept if self._health.is_down(profile_key(tag))}
        for tag in self._unheard - kept:
            self._local.discard(tag)
        self._unheard = kept

    async def expire(self) -> None:
        """Forget copies that serve no more, asked for or not, until cancelled."""
        while True:
            await asyncio.sleep(self._options.expiry_interval_s)
            self._local.drop_older(max(self._options.local_ttl_s, self._options.stale_window_s))
            self._unheard &= self._local.keys()

    async def _read_and_keep(self, tenant: str, user_id: str) -> Profile:
        tag = user_tag(tenant, user_id)
        try:
            profile = await self._read(tenant, user_id)
        except ProfileNotFoundError:
            self._local.discard(tag)
            raise
        if self._reads.is_current(tag):  # else it changed while we read
            self._local.put(tag, profile)
            self._unheard.discard(tag)
        return profile
