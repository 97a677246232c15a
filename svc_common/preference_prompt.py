"""Put a stated preference into a chat prompt the way PersRM was trained to read it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

GUIDELINES = (
    "[Guidelines] Your task is to generate response by considering the following principle."
    " [Principles] {preference} [Instruction] {instruction}"
)


@dataclass(frozen=True)
class ChatMessage:
    """One turn of a conversation: `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


Prompt = str | tuple[ChatMessage, ...]
"""Raw text to continue, or a conversation to answer."""


def guide_text(instruction: str, preference: str, provider: str = "") -> str:
    """Return `instruction` behind the guideline that names `preference`.

    The marks in brackets delimit the preference: `preference_text` lets none through.

    Args:
        instruction: What is to be answered.
        preference: Checked.
        provider: The operator's own guidelines, which stand before all else; empty for none.

    Source: arXiv 2410.04070, appendix A, and the scripts of PAD's released code.
    """
    guided = GUIDELINES.format(preference=preference, instruction=instruction)
    return f"{provider}\n{guided}" if provider else guided


def add_preference(
    messages: Sequence[ChatMessage], preference: str, provider: str = ""
) -> list[ChatMessage]:
    """Return `messages` with the preference stated in the first user message.

    The first one, because what stands before the conversation is then the same for all requests
    of a user, and its keys and values can be kept. For `provider` see `guide_text`.

    Raises:
        ValueError: no message has the role `user`.
    """
    first_user = next((i for i, m in enumerate(messages) if m.role == "user"), None)
    if first_user is None:
        raise ValueError("messages: need one with role user, got none")
    content = guide_text(messages[first_user].content, preference, provider)
    guided = replace(messages[first_user], content=content)
    return [*messages[:first_user], guided, *messages[first_user + 1 :]]
