"""Keeps in Redis what the reward model made of a preference text, so that it is computed once."""

from collections.abc import Collection, Iterable

from generator_svc.profile_format import encoding_key
from generator_svc.profile_scripts import FORGET_ENCODING, PUT_ENCODING, READ_ENCODING
from generator_svc.redis_client import RedisClient
from generator_svc.store_health import StoreHealth

MAX_ENCODING_BYTES = 1 << 20  # a vector of a model with D = 4096 takes 32 KiB
# A request that had read a profile before it was erased may come with an encoding afterwards.
FORGOTTEN_S = 60


class EncodingStore:
    """A cache shared by all generators: without it, encodings are computed again.

    A key stands for a tenant's text, under whatever user, and holds a field per model version.
    Tenants share none: else the time that a request takes would tell whether another tenant has
    that wish, and an erasure would slow others down. An encoding may give its text away (it can be
    the token ids), so it goes when a profile of the tenant with that text is erased, whoever else
    uses the text, and by itself after `ttl_s`. For a minute after that nothing is kept for the
    text.

    Every method raises StoreUnavailableError while Redis does not answer or not with what was kept
    here.
    """

    def __init__(self, client: RedisClient, health: StoreHealth, ttl_s: float) -> None:
        self._redis = client
        self._health = health
        self._ttl_ms = int(ttl_s * 1000)
        self._put_script = client.register_script(PUT_ENCODING)

    async def get(self, tenant: str, model_version: str, texts: Iterable[str]) -> dict[str, bytes]:
        """Return those of `texts` that are at hand with their encodings, in one round trip."""
        wanted = list(dict.fromkeys(texts))
        keys = [encoding_key(tenant, text) for text in wanted]
        async with self._health.answering(*keys, is_optional=True):
            calls = [(key, model_version, MAX_ENCODING_BYTES) for key in keys]
            found = await self._redis.eval_each(READ_ENCODING, calls)
        return {text: encoding for text, encoding in zip(wanted, found, strict=True) if encoding}

    async def put(self, tenant: str, model_version: str, text: str, encoding: bytes) -> bool:
        """Keep the encoding of `text` by that version of the reward model; say whether it is kept.

        It is not for a minute after the text was forgotten.
        """
        key = encoding_key(tenant, text)
        async with self._health.answering(key, is_optional=True):
            is_kept = await self._put_script(
                keys=[key], args=[model_version, encoding, self._ttl_ms]
            )
        return bool(is_kept)

    async def forget(self, tenant: str, texts: Collection[str]) -> None:
        """Remove the encodings of `texts` by all versions."""
        if not texts:
            return
        keys = [encoding_key(tenant, text) for text in texts]
        async with self._health.clearing(*keys):
            await self._redis.eval_each(FORGET_ENCODING, [(key, FORGOTTEN_S) for key in keys])
