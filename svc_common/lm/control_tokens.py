"""Which tokens of a tokenizer mark turns: no text of a caller may hold one."""

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from svc_common.lm.chat_template import render_chat

_PROBE = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Return ids and texts of control tokens.

    `all_special_tokens` names those with a role, such as the end of a text. Many models keep the
    tokens of their turns in `added_tokens` alone, and some do not even call them special.
    """
    found = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    turns = _rendered(tokenizer)
    for token_id, token in tokenizer.added_tokens_decoder.items():
        # Words that somebody added to the vocabulary mark nothing, nor do runs of blanks.
        is_mark = token.content in turns and not token.content.isalnum()
        if (token.special or is_mark) and token.content.strip():
            found[token_id] = token.content
    return found


def _rendered(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a conversation with what the chat template writes around it; "" if it cannot."""
    if not tokenizer.chat_template:
        return ""
    try:
        return render_chat(tokenizer, _PROBE)
    except TemplateError:
        return ""
