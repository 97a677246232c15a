"""What is told about single tokens: log-probabilities, and what the profile did."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edge_svc.answering import Event
from pad_client import Candidate, Summary, Token

_UNFINISHED = "\ufffd"  # what a part of a character decodes to; its bytes are not known here


def chat_logprobs(tokens: Sequence[Token], num_top: int) -> dict[str, Any]:
    """Return the base model's log-probabilities as chat completions tell them."""
    return {
        "content": [
            {
                **_chat_entry(_chosen(token)),
                "top_logprobs": [_chat_entry(each) for each in token.candidates[:num_top]],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def completion_logprobs(tokens: Sequence[Token], num_top: int, offset: int) -> dict[str, Any]:
    """Return the base model's log-probabilities as raw completions tell them.

    Args:
        tokens: The tokens told of.
        num_top: Candidates told for each.
        offset: Characters of the answer before the first of them.
    """
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [_chosen(token).text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        # The likelier one stays where two read alike, as parts of characters do.
        "top_logprobs": [
            {each.text: each.logprob for each in reversed(token.candidates[:num_top])}
            for token in tokens
        ]
        if num_top
        else None,
        "text_offset": offsets,
    }


def pad_tokens(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """Return what the profile did to each token, and each of its wishes where that was asked."""
    names = ("index", "text", "token_id", "logprob", "reward", "guided", "changed")
    return [
        {name: getattr(token, name) for name in (*names, "base_token_id", "base_text")}
        | ({} if token.explanation is None else {"explanation": asdict(token.explanation)})
        for token in tokens
    ]


def pad_summary(event: Event) -> dict[str, Any]:
    """Return how an answer came about, in the words of generator.proto."""
    assert isinstance(event.value, Summary)  # the last event of each choice
    told = {**asdict(event.value), "is_profile_missing": not event.has_profile}
    if event.value.explanation is None:
        del told["explanation"]
    return told


def _chosen(token: Token) -> Candidate:
    for candidate in token.candidates:
        if candidate.token_id == token.token_id:
            return candidate
    return Candidate(token.token_id, token.text, token.logprob, token.reward, token.logprob)


def _chat_entry(candidate: Candidate) -> dict[str, Any]:
    text = candidate.text
    return {
        "token": text,
        "logprob": candidate.logprob,
        "bytes": None if _UNFINISHED in text else list(text.encode()),
    }
