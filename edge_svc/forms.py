"""The two forms of an answer: chat completions and raw completions."""

from collections.abc import Sequence
from typing import Any, Protocol

from edge_svc.details import chat_logprobs, completion_logprobs
from pad_client import Token


class Form(Protocol):
    """How a choice is written, whole and in pieces."""

    id_prefix: str
    object: str
    chunk_object: str

    def opening(self, index: int) -> dict[str, Any] | None:
        """Return what a stream begins a choice with."""

    def piece(self, index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
        """Return a piece of a choice in a stream; it has text or a finish reason."""

    def whole(self, index: int, text: str, finish_reason: str) -> dict[str, Any]:
        """Return a choice at once."""

    def logprobs(self, tokens: Sequence[Token], num_top: int, offset: int) -> dict[str, Any]:
        """Return the log-probabilities of tokens that begin `offset` characters into the text."""


class ChatForm:
    """The form of /v1/chat/completions."""

    id_prefix = "chatcmpl-"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
        delta = {} if finish_reason else {"content": text}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    def whole(self, index: int, text: str, finish_reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason,
        }

    def logprobs(self, tokens: Sequence[Token], num_top: int, offset: int) -> dict[str, Any]:
        return chat_logprobs(tokens, num_top)


class CompletionForm:
    """The form of /v1/completions."""

    id_prefix = "cmpl-"
    object = "text_completion"
    chunk_object = "text_completion"

    def opening(self, index: int) -> None:
        return None

    def piece(self, index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def whole(self, index: int, text: str, finish_reason: str) -> dict[str, Any]:
        return self.piece(index, text, finish_reason)

    def logprobs(self, tokens: Sequence[Token], num_top: int, offset: int) -> dict[str, Any]:
        return completion_logprobs(tokens, num_top, offset)
