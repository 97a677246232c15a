"""Keeps in Redis what the reward model made of a preference text, so that it is computed once."""

from collections.abc import Iterable

from redis.asyncio import Redis

from generator_svc.profile_format import encoding_key
from generator_svc.redis_calls import answering


class EncodingStore:
    """A cache shared by all generators: without it, encodings are computed again.

    A key stands for a text, under whatever tenant or user, and holds a field per model version.
    An encoding may give its text away (it can be the token ids), so it goes when a profile with
    that text is erased, whoever else uses the text, and by itself after `ttl_s`.
    """

    def __init__(self, client: Redis, timeout_s: float, ttl_s: float) -> None:
        self._redis = client
        self._timeout_s = timeout_s
        self._ttl_ms = int(ttl_s * 1000)

    async def get(self, model_version: str, texts: Iterable[str]) -> dict[str, bytes]:
        """Return those of `texts` that are at hand with their encodings, in one round trip.

        Raises:
            StoreUnavailableError: Redis does not answer, or not with what was kept here.
        """
        wanted = list(dict.fromkeys(texts))
        async with (
            answering(self._timeout_s, is_optional=True),
            self._redis.pipeline(transaction=False) as pipeline,
        ):
            for text in wanted:
                pipeline.hget(encoding_key(text), model_version)
            found = await pipeline.execute()
        return {text: encoding for text, encoding in zip(wanted, found, strict=True) if encoding}

    async def put(self, model_version: str, text: str, encoding: bytes) -> None:
        """Keep the encoding of `text` by that version of the reward model.

        Raises:
            StoreUnavailableError: Redis does not answer, or not with what was kept here.
        """
        key = encoding_key(text)
        async with (
            answering(self._timeout_s, is_optional=True),
            self._redis.pipeline(transaction=True) as pipeline,
        ):
            pipeline.hset(key, model_version, encoding)
            pipeline.pexpire(key, self._ttl_ms)
            await pipeline.execute()

    async def forget(self, texts: Iterable[str]) -> None:
        """Remove the encodings of `texts` by all versions.

        Raises:
            StoreUnavailableError: Redis does not answer, or not with what was kept here.
        """
        async with (
            answering(self._timeout_s, is_optional=True),
            self._redis.pipeline(transaction=False) as pipeline,
        ):
            for text in texts:
                pipeline.unlink(encoding_key(text))
            await pipeline.execute()
