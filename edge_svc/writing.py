"""Writes the events of an answer as one JSON object, or as server-sent events."""

import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from edge_svc.answering import Event
from edge_svc.details import pad_summary, pad_tokens
from edge_svc.errors import ApiError, from_pad
from edge_svc.forms import Form
from edge_svc.plan import Plan
from pad_client import FinishReason, PadError, ServerInfo, Summary, Token

DONE = b"data: [DONE]\n\n"
_FINISH = {FinishReason.LENGTH: "length"}  # the model's own end, and stop strings: "stop"


@dataclass
class _Choice:
    """What was written of one choice."""

    tokens: list[Token] = field(default_factory=list)
    num_characters: int = 0


class Writer:
    """Writes one answer."""

    def __init__(
        self, form: Form, plan: Plan, info: ServerInfo, on_broken: Callable[[], None]
    ) -> None:
        self._form = form
        self._plan = plan
        self._id = form.id_prefix + uuid.uuid4().hex
        self._created = int(time.time())
        self._info = info
        self._on_broken = on_broken
        self._choices = [_Choice() for _ in plan.choices]
        self._summaries: dict[int, Event] = {}

    async def whole(self, events: AsyncIterator[Event]) -> dict[str, Any]:
        """Return the answer as one object."""
        async for event in events:
            if isinstance(event.value, Token):
                self._choices[event.index].tokens.append(event.value)
            else:
                self._summaries[event.index] = event
        choices = [self._whole_choice(index) for index in range(len(self._choices))]
        return {**self._envelope(self._form.object, choices), "usage": self._usage()}

    async def stream(self, events: AsyncIterator[Event]) -> AsyncGenerator[bytes, None]:
        """Yield the answer as server-sent events; an error becomes the last of them."""
        for index in range(len(self._choices)):
            opening = self._form.opening(index)
            if opening is not None:
                yield self._chunk([opening])
        try:
            async for event in events:
                choice = self._piece(event)
                if choice is not None:
                    yield self._chunk([choice])
        except PadError as error:
            self._on_broken()
            yield error_event(from_pad(error))
            return
        if self._plan.tells_usage:
            yield self._chunk([], self._usage())
        yield DONE

    def _whole_choice(self, index: int) -> dict[str, Any]:
        tokens, event = self._choices[index].tokens, self._summaries[index]
        text = "".join(token.text for token in tokens)
        choice = self._form.whole(index, text, _finish_reason(event))
        if self._plan.num_top_logprobs is not None:
            choice["logprobs"] = self._form.logprobs(tokens, self._plan.num_top_logprobs, 0)
        told = {"tokens": pad_tokens(tokens)} if self._plan.tells_details else {}
        return {**choice, "pad": {**told, "summary": pad_summary(event)}}

    def _piece(self, event: Event) -> dict[str, Any] | None:
        """Return what an event adds to its choice; None where there is nothing to tell yet."""
        if isinstance(event.value, Summary):
            self._summaries[event.index] = event
            choice = self._form.piece(event.index, "", _finish_reason(event))
            return {**choice, "pad": {"summary": pad_summary(event)}}
        token, written = event.value, self._choices[event.index]
        num_top = self._plan.num_top_logprobs
        if not token.text and num_top is None and not self._plan.tells_details:
            return None
        choice = self._form.piece(event.index, token.text, None)
        if num_top is not None:
            choice["logprobs"] = self._form.logprobs([token], num_top, written.num_characters)
        written.num_characters += len(token.text)
        if self._plan.tells_details:
            choice["pad"] = {"tokens": pad_tokens([token])}
        return choice

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        chunk = self._envelope(self._form.chunk_object, choices)
        if self._plan.tells_usage:
            chunk["usage"] = usage
        return _event(chunk)

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._info.model_id,
            "system_fingerprint": self._info.model_version,
            "choices": choices,
        }

    def _usage(self) -> dict[str, int]:
        """Count each prompt once, and what all choices wrote."""
        summaries = [self._summaries[index].value for index in range(len(self._choices))]
        known = [each for each in summaries if isinstance(each, Summary)]
        prompt = sum(each.num_prompt_tokens for each in known[:: self._plan.num_per_prompt])
        written = sum(each.num_tokens for each in known)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
        }


def error_event(error: ApiError) -> bytes:
    """Return an error in the middle of a stream; nothing follows it."""
    return _event(error.body())


def _event(value: dict[str, Any]) -> bytes:
    return (
        b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )


def _finish_reason(event: Event) -> str:
    assert isinstance(event.value, Summary)  # the last event of each choice
    reason = event.value.finish_reason
    return "stop" if reason is None else _FINISH.get(reason, "stop")
