"""What the reward model reads for a session, and how its reward is put together from that."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from reward_svc.pad_config import Conditioning
from svc_common.lm.prefix_tree import common_length
from svc_common.lm.tokenizer import Tokenizer
from svc_common.lm.tokenizing import size_of
from svc_common.preference_prompt import ChatMessage, Prompt, add_preference, guide_text

# Row groups: which weights a row runs.
THETA = 0
REFERENCE = 1


class Reference(Enum):
    """What a reward is measured against."""

    BACKBONE = 1
    BASE = 2


@dataclass(frozen=True)
class WeightedPreference:
    """A preference, with its encoding where the caller had it.

    `encoding` holds the ids its prompt should begin with, `vector` w_p and b_p: `[2D]`.
    """

    text: str
    weight: float
    encoding: tuple[int, ...] = ()
    vector: NDArray[np.float32] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class RewardContext:
    """What a session scores: answers to this prompt under these preferences."""

    prompt: Prompt
    preferences: tuple[WeightedPreference, ...]
    reference: Reference
    subject: bytes = b""  # whose; see `RowPrompt`


@dataclass(frozen=True)
class RowPrompt:
    """The prompt of one row of the KV cache.

    The first `prefix_length` tokens, always fewer than all, do not depend on the instruction. What
    is kept of it is kept for `subject`, a user's opaque name.
    """

    group: int
    token_ids: tuple[int, ...]
    prefix_length: int
    subject: bytes = b""


@dataclass(frozen=True)
class Term:
    """A part of a session's reward: `weight` times the log-probability that its row gives.

    `row` counts the plan's prompts. If there is a `preference`, its vector changes the row's last
    hidden state for this term; that is how several preferences share a row.
    """

    row: int
    weight: float
    preference: WeightedPreference | None = None


@dataclass(frozen=True)
class Plan:
    """What a session runs and what its reward is: the sum of its terms, in the order of rows."""

    prompts: tuple[RowPrompt, ...]
    terms: tuple[Term, ...]

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(prompt.token_ids) for prompt in self.prompts)

    @property
    def subject(self) -> bytes:
        """For whom what is kept is kept."""
        return self.prompts[0].subject

    # A step needs these of each session, so they are made once.
    @cached_property
    def weights(self) -> tuple[float, ...]:
        """The weight of each term."""
        return tuple(term.weight for term in self.terms)

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """The group of each term's row."""
        return tuple(self.prompts[term.row].group for term in self.terms)


def check_lengths(context: RewardContext, tokenizer: Tokenizer, max_tokens: int) -> None:
    """Refuse by its characters what cannot fit, as 15 MB take half a minute to become tokens.

    Raises:
        InvalidRequestError: Prompt or preference is longer than `max_tokens` tokens can be.
    """
    for i, preference in enumerate(context.preferences):
        tokenizer.check_length(f"preferences[{i}].text", preference.text, max_tokens)
    if isinstance(context.prompt, str):
        tokenizer.check_length("prompt", context.prompt, max_tokens)
        return
    for i, message in enumerate(context.prompt):
        tokenizer.check_length(f"chat.messages[{i}].content", message.content, max_tokens)
    contents = "".join(message.content for message in context.prompt)
    tokenizer.check_length("chat.messages", contents, max_tokens)


def num_characters(context: RewardContext) -> int:
    """Return about how many characters `plan_session` tokenises.

    The prompt is tokenised once or twice for each preference, and for the reference.
    """
    texts = sum(len(preference.text) for preference in context.preferences)
    return (1 + len(context.preferences)) * size_of(context.prompt) + texts


def plan_session(context: RewardContext, tokenizer: Tokenizer, conditioning: Conditioning) -> Plan:
    """Return rows and terms: those of the preferences, then the reference's, if it has one.

    Preferences that stand in no prompt share one row of theta.

    Raises:
        InvalidRequestError: A text holds a control token.
        ModelMismatchError: A conversation, but the model has no chat template.
    """
    prompts: list[RowPrompt] = []
    terms: list[Term] = []
    for i, preference in enumerate(context.preferences):
        # A raw prompt may hold control tokens: its caller renders it. A preference never may.
        tokenizer.check_text(f"preferences[{i}].text", preference.text)
        if conditioning.has_prompt:
            prompts.append(_guided_row(context.prompt, preference, tokenizer))
        elif not prompts:
            prompts.append(_plain_row(THETA, context.prompt, tokenizer))
        vectored = preference if conditioning.has_vector else None
        terms.append(Term(len(prompts) - 1, preference.weight, vectored))
    if context.reference is Reference.BACKBONE:
        prompts.append(_plain_row(REFERENCE, context.prompt, tokenizer))
        weight = -sum(preference.weight for preference in context.preferences)
        terms.append(Term(len(prompts) - 1, weight))
    owned = (replace(prompt, subject=context.subject) for prompt in prompts)
    return Plan(tuple(owned), tuple(terms))


def _plain_row(group: int, prompt: Prompt, tokenizer: Tokenizer) -> RowPrompt:
    token_ids = tuple(tokenizer.encode_prompt(prompt))
    return RowPrompt(group, token_ids, _prefix_length(token_ids, prompt, None, tokenizer))


def _guided_row(prompt: Prompt, preference: WeightedPreference, tokenizer: Tokenizer) -> RowPrompt:
    token_ids = tuple(tokenizer.encode_prompt(_guided(prompt, preference.text)))
    encoding = preference.encoding
    if encoding and token_ids[: len(encoding)] == encoding:
        prefix_length = min(len(encoding), len(token_ids) - 1)
    else:
        prefix_length = _prefix_length(token_ids, prompt, preference.text, tokenizer)
    return RowPrompt(THETA, token_ids, prefix_length)


def _prefix_length(
    token_ids: Sequence[int], prompt: Prompt, preference: str | None, tokenizer: Tokenizer
) -> int:
    """Count the first tokens that the prompt shares with one that has no instruction."""
    if isinstance(prompt, str) and preference is None:
        return 0
    empty = tokenizer.encode_prompt(_guided(_without_instruction(prompt), preference))
    return min(common_length(token_ids, empty), len(token_ids) - 1)


def _guided(prompt: Prompt, preference: str | None) -> Prompt:
    if preference is None:
        return prompt
    if isinstance(prompt, str):
        return guide_text(prompt, preference)
    return tuple(add_preference(prompt, preference))


def _without_instruction(prompt: Prompt) -> Prompt:
    if isinstance(prompt, str):
        return ""
    first_user = next(i for i, message in enumerate(prompt) if message.role == "user")
    return (*prompt[:first_user], replace(prompt[first_user], content=""))


def encode_preference(text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the token ids of a chat prompt with this preference, up to the instruction.

    Raises:
        InvalidRequestError: The text holds a control token.
        ModelMismatchError: The model has no chat template.
    """
    tokenizer.check_text("preference.text", text)
    empty, probe = (
        tokenizer.encode_prompt((ChatMessage("user", guide_text(instruction, text)),))
        for instruction in ("", "x")  # the last space may be merged with what follows
    )
    return tuple(empty[: common_length(empty, probe)])
