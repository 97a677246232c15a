"""Render a conversation with the chat template of a model folder, whatever that holds."""

from collections.abc import Mapping, Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

# What templates end with, apart from jinja2's own: `include` and `import` find no loader, the
# sandbox lets no range be endless. (transformers' sandbox runs no code and opens no file.)
_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> str:
    """Return a conversation as the model reads it, up to where its answer begins.

    Raises:
        TemplateError: The template refuses the conversation, or cannot be rendered.
    """
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        )
    except _ERRORS as error:
        raise TemplateError(f"{type(error).__name__}: {error}") from error
