"""One pass over all profiles, in which the reward model encodes what it has not encoded yet.

Profiles change and are erased meanwhile, and a pass takes hours. What somebody erased must not
come back, here or in a replica: a profile is read again just before each of its texts is sent,
and again afterwards.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from generator_svc.engine.scorer import RewardQueries
from generator_svc.lease import Lease
from generator_svc.profile_format import profile_key, subject_of, texts_of
from generator_svc.profile_scripts import READ
from generator_svc.profiles import ProfileStore
from generator_svc.redis_client import RedisClient
from svc_common.errors import (
    InvalidRequestError,
    OverloadedError,
    RewardUnavailableError,
    ServiceError,
    StoreUnavailableError,
)

SCAN_COUNT = 200  # keys that Redis looks at in one go
MAX_BATCH = 50  # profiles read in one go
# Nobody waits for it, and the replica has others to serve. Far less than `FORGOTTEN_S`: an
# encoding that was under way when its text was erased is still not kept.
TIMEOUT_S = 10.0
FORGET_TIMEOUT_S = 2.0
MAX_TRIES = 5  # of a text at replicas that are full
_PREFERENCES = 2  # place in what READ returns
_PATTERN = profile_key("*")
_TAG = slice(_PATTERN.index("*"), -len(_PATTERN.partition("*")[2]))

Outcome = Literal["computed", "kept", "gone", "refused", "failed"]


class AheadObserver(Protocol):
    """Receives how far it is; must be quick."""

    def encoded_ahead(self, outcome: Outcome) -> None:
        """Say what became of a text.

        It is `computed`; `kept`: it was there; `gone`: erased or replaced meanwhile; `refused` by
        the model, for good; or `failed`, and is tried again.
        """

    def versions_ahead(self, num_complete: int, num_missing: int) -> None:
        """Say for how many versions in reach all is encoded, and for how many it is not."""


@dataclass(frozen=True)
class AheadOptions:
    """How much it may take.

    Attributes:
        per_s: Encodings computed a second, by all generators together; 0: none.
        ttl_s: How long the store keeps an encoding.
        interval_s: How often new versions are looked for.
        retry_s: How long texts that failed are left alone.
        lease_s: A generator that died leaves its round to another after this.
    """

    per_s: float
    ttl_s: float
    interval_s: float = 2.0
    retry_s: float = 30.0
    lease_s: float = 30.0


@dataclass(frozen=True)
class _Owner:
    """Whose profile it is, by its key."""

    key: bytes

    @property
    def tag(self) -> str:
        return self.key.decode(errors="replace")[_TAG]

    @property
    def tenant(self) -> str:
        return self.tag.partition(":")[0]

    @property
    def subject(self) -> bytes:
        return subject_of(self.tag)


class EncodingRound:
    """A pass for one version, by whoever holds the lease.

    Args:
        client: Redis, whose profiles are gone through.
        store: Whose profiles and encodings.
        queries: Ask the reward replicas.
        observer: Told what becomes of each text.
        options: How much it may take.
        version: Of the reward model.
        lease: Renewed while it runs.
    """

    def __init__(
        self,
        client: RedisClient,
        store: ProfileStore,
        queries: RewardQueries,
        observer: AheadObserver,
        options: AheadOptions,
        version: str,
        lease: Lease,
    ) -> None:
        self._redis = client
        self._store = store
        self._queries = queries
        self._observer = observer
        self._options = options
        self._version = version
        self._lease = lease

    async def run(self) -> int:
        """Go through all profiles; return how many texts failed, of which each may succeed later.

        Raises:
            LeaseLostError: Another generator goes on with it.
            RewardUnavailableError: No replica has the version any more.
            StoreUnavailableError: Redis does not answer.
        """
        num_failed = 0
        async with aclosing(self._batches()) as batches:
            async for keys in batches:
                await self._lease.keep()
                for key, texts in zip(keys, await self._read(keys), strict=True):
                    if texts:
                        num_failed += await self._encode_all(_Owner(key), sorted(texts))
        return num_failed

    async def _batches(self) -> AsyncGenerator[list[bytes], None]:
        async with self._store.health.clearing():
            nodes = await self._redis.all_nodes()
        for node in nodes:
            cursor = 0
            while True:
                await self._lease.keep()
                async with self._store.health.clearing():
                    found: Any = await node.scan(cursor, _PATTERN, SCAN_COUNT)
                cursor, keys = found
                for start in range(0, len(keys), MAX_BATCH):
                    yield keys[start : start + MAX_BATCH]
                if cursor == 0:
                    break

    async def _read(self, keys: list[bytes]) -> list[set[str]]:
        """Return the texts of each profile as they are now."""
        async with self._store.health.clearing(*keys):
            stored = await self._redis.eval_each(READ, [(key,) for key in keys])
        return [texts_of(fields[_PREFERENCES] or b"") for fields in stored]

    async def _has(self, owner: _Owner, text: str) -> bool:
        (texts,) = await self._read([owner.key])
        return text in texts

    async def _encode_all(self, owner: _Owner, texts: list[str]) -> int:
        """Have a user's texts encoded; return how many failed."""
        await self._lease.keep()
        kept = await self._store.get_encodings(owner.tenant, self._version, texts)
        num_failed = 0
        for text in texts:
            outcome: Outcome = "kept" if text in kept else await self._encode(owner, text)
            self._observer.encoded_ahead(outcome)
            num_failed += outcome == "failed"
        return num_failed

    async def _encode(self, owner: _Owner, text: str) -> Outcome:
        """Have a text encoded, at the rate that is allowed."""
        for _ in range(MAX_TRIES):
            await self._lease.keep()
            if not await self._has(owner, text):
                return "gone"
            began_at = time.monotonic()
            try:
                outcome = await self._compute(owner, text)
            except OverloadedError as error:  # nothing was done
                await self._pause(error.retry_after_s or 0.0)
                continue
            await self._pause(began_at + 1 / self._options.per_s - time.monotonic())
            return outcome
        return "failed"

    async def _pause(self, seconds: float) -> None:
        """Wait without losing the lease."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, self._lease.renewal_s))
            await self._lease.keep()

    async def _compute(self, owner: _Owner, text: str) -> Outcome:
        """Have a text encoded and keep that, unless it was erased or replaced meanwhile.

        Raises:
            OverloadedError: Replicas are full.
            RewardUnavailableError, StoreUnavailableError: See `run`.
        """
        try:
            encoding = await self._ask(owner, text)
        except InvalidRequestError:
            return "refused"
        is_kept = False
        try:
            if encoding is not None:
                is_kept = await self._store.put_encoding(
                    owner.tenant, self._version, text, encoding
                )
            has_it_still = await self._has(owner, text)
        except StoreUnavailableError:  # it may be erased: a cache of a replica is the lesser loss
            await self._queries.forget([owner.subject], FORGET_TIMEOUT_S)
            raise
        if not has_it_still:  # what told the replicas to forget may have come before the encoding
            await self._queries.forget([owner.subject], FORGET_TIMEOUT_S)
            if is_kept:
                await self._store.forget_encodings(owner.tenant, [text])
            return "gone"
        if encoding is None and self._version not in self._queries.vector_versions:
            rule = "is not served any more"
            raise RewardUnavailableError(f"reward model {self._version}: {rule}")
        return "computed" if is_kept else "failed"

    async def _ask(self, owner: _Owner, text: str) -> bytes | None:
        """Return a text's encoding, or nothing where none came.

        One text that takes too long, or meets a replica that is just leaving, stops no other.

        Raises:
            InvalidRequestError: The model refuses the text.
            OverloadedError: See `_compute`.
        """
        try:
            answered, encoding = await self._queries.encode_preference(
                text, owner.subject, TIMEOUT_S, self._version
            )
        except (InvalidRequestError, OverloadedError):
            raise
        except ServiceError:
            return None
        return encoding if answered == self._version else None
