"""Encode a preference for callers to keep, and make this replica ready for it."""

from contextlib import suppress

from reward_svc.batcher import Batcher
from reward_svc.prompts import THETA, RowPrompt, encode_preference
from reward_svc.sessions import SessionCache
from svc_common.errors import OverloadedError


class PreferenceEncoder:
    """Turns preferences into the beginning of their prompts."""

    def __init__(self, cache: SessionCache, batcher: Batcher) -> None:
        self._cache = cache
        self._batcher = batcher

    async def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of the prompt up to the instruction.

        They are also put into the prefix cache; a replica too busy for that encodes all the same.

        Raises:
            InvalidRequestError: The text holds a control token, or is longer than the context.
            ModelMismatchError: The model has no chat template.
        """
        model = self._cache.model
        model.tokenizer.check_length("preference.text", text, model.context_length)
        token_ids = encode_preference(text, model.tokenizer)
        model.check_length("preference.text", len(token_ids))
        prompt = RowPrompt(THETA, 1.0, token_ids, len(token_ids))
        with suppress(OverloadedError):
            await self._batcher.call(self._cache.warm(prompt))
        return token_ids
