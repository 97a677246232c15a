"""Fields of the OpenAI API that cannot be honoured: refused, unless they ask for nothing."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Unsupported:
    """Why a field is refused, and the values that ask for nothing (null always does)."""

    reason: str
    neutral: tuple[Any, ...] = ()


_NO_TOOLS = "must be absent: the model calls no tools"
_NO_AUDIO = "must be absent: the model writes text alone"
_NO_PENALTY = "must be 0: tokens are chosen by the base model and the profile alone"
_NO_STORE = "must be absent: nothing is kept of a request"
_NO_TIERS = "must be auto or default: there is one tier"
_NO_THOUGHT = "must be absent: the model does not reason"

NEUTRAL: dict[str, Unsupported] = {
    "audio": Unsupported(_NO_AUDIO),
    "best_of": Unsupported(
        "must be absent or 1: use pad.strategy='best-of-n' with pad.num_samples", (1,)
    ),
    "echo": Unsupported("must be false: the prompt is not repeated", (False,)),
    "frequency_penalty": Unsupported(_NO_PENALTY, (0,)),
    "function_call": Unsupported(_NO_TOOLS, ("none",)),
    "functions": Unsupported(_NO_TOOLS, ([],)),
    "logit_bias": Unsupported("must be empty: use pad.preferences to steer", ({},)),
    "metadata": Unsupported(_NO_STORE, ({},)),
    "modalities": Unsupported("must be ['text']: the model writes text alone", (["text"],)),
    "moderation": Unsupported("must be absent: texts are not judged"),
    "parallel_tool_calls": Unsupported(_NO_TOOLS, (False,)),
    "prediction": Unsupported("must be absent: every token is chosen anew"),
    "presence_penalty": Unsupported(_NO_PENALTY, (0,)),
    "prompt_cache_key": Unsupported("must be absent: prefixes are kept without keys"),
    "prompt_cache_options": Unsupported("must be absent: prefixes are kept without options"),
    "prompt_cache_retention": Unsupported("must be absent: prefixes are kept while there is room"),
    "reasoning_effort": Unsupported(_NO_THOUGHT, ("none",)),
    "response_format": Unsupported(
        "must be {'type': 'text'}: no grammar restricts the answer", ({"type": "text"},)
    ),
    "safety_identifier": Unsupported("must be absent: use user, whose profile guides the answer"),
    "service_tier": Unsupported(_NO_TIERS, ("auto", "default")),
    "store": Unsupported(_NO_STORE, (False,)),
    "suffix": Unsupported("must be absent: the model writes on from a prompt alone", ("",)),
    "tool_choice": Unsupported(_NO_TOOLS, ("none",)),
    "tools": Unsupported(_NO_TOOLS, ([],)),
    "verbosity": Unsupported("must be absent: use pad.preferences, such as 'Be brief.'"),
    "web_search_options": Unsupported("must be absent: the model searches nothing"),
}


def is_neutral(name: str, value: Any) -> bool:
    """Return whether a field asks for nothing, so that leaving it out changes nothing."""
    if value is None:
        return True
    known = NEUTRAL.get(name)
    if known is None:
        return False
    # Equal and of one kind: True is not 1, and 0 and 0.0 are the same wish.
    return any(
        value == each and isinstance(value, bool) == isinstance(each, bool)
        for each in known.neutral
    )
