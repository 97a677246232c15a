"""Encode a preference for callers to keep, and make this replica ready for it."""

from contextlib import suppress
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from reward_svc.batcher import Batcher
from reward_svc.prompts import THETA, RowPrompt, encode_preference
from reward_svc.sessions import SessionCache
from svc_common.errors import OverloadedError

Encoding: TypeAlias = NDArray[np.uint32] | NDArray[np.float32]


class PreferenceEncoder:
    """Turns preferences into what a session needs of them: token ids, or a vector."""

    def __init__(self, cache: SessionCache, batcher: Batcher) -> None:
        self._cache = cache
        self._batcher = batcher

    async def encode(self, text: str, subject: bytes = b"") -> Encoding:
        """Return w_p and b_p `[2D]`, or by conditioning `prompt` the prompt up to the instruction.

        That beginning, where the model reads it, is also put into the prefix cache; a replica too
        busy for that encodes all the same. What is kept is kept for `subject`, an opaque name.

        Raises:
            InvalidRequestError: The text holds a control token, or is too long.
            ModelMismatchError: The model has no chat template.
            OverloadedError: Too much waits for the model to compute the vector.
        """
        model = self._cache.model
        model.tokenizer.check_length("preference.text", text, model.context_length)
        token_ids = self._begin(text) if model.conditioning.has_prompt else ()
        vector = None
        if model.vectors is not None:
            model.tokenizer.check_text("preference.text", text)
            model.vectors.check("preference.text", text)
            vector = (await self._batcher.call(model.vectors.of(text, subject))).cpu().numpy()
        if token_ids:
            prompt = RowPrompt(THETA, token_ids, len(token_ids), subject)
            with suppress(OverloadedError):
                await self._batcher.call(self._cache.warm(prompt))
        return np.array(token_ids, np.uint32) if vector is None else vector

    def _begin(self, text: str) -> tuple[int, ...]:
        model = self._cache.model
        token_ids = encode_preference(text, model.tokenizer)
        model.check_length("preference.text", len(token_ids))
        return token_ids
