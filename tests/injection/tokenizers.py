"""Tokenizers that tell controls from text in different ways, over the tiny models' vocabulary."""

from tokenizers import AddedToken, normalizers
from transformers import PreTrainedTokenizerFast

from svc_common.lm.tokenizer import Tokenizer
from tests.tiny_model import CHAT_TEMPLATE, CONTROL_TOKENS, tiny_tokenizer


def _named() -> PreTrainedTokenizerFast:
    """As the tiny and the demo models have it: all control tokens have a role."""
    return tiny_tokenizer()


def _added(*, special: bool, normalized: bool = False) -> PreTrainedTokenizerFast:
    backend = tiny_tokenizer().backend_tokenizer
    if normalized:
        backend.normalizer = normalizers.NFKC()
    for token in CONTROL_TOKENS:
        kind = AddedToken(token, special=special, normalized=normalized)
        (backend.add_special_tokens if special else backend.add_tokens)([kind])
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=CHAT_TEMPLATE)


def kinds() -> dict[str, Tokenizer]:
    """Return a tokenizer of each kind."""
    made = {
        "named": _named(),
        # Llama 3 names the end of text alone; its turns are `added_tokens`.
        "added": _added(special=True),
        # DeepSeek does not even call them special.
        "not special": _added(special=False),
        # One that changes text before it looks for tokens.
        "normalising": _added(special=False, normalized=True),
    }
    return {name: Tokenizer(its, frozenset()) for name, its in made.items()}
