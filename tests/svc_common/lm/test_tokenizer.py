"""Text and tokens: what is held back, what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svc_common.errors import InvalidRequestError, ModelMismatchError
from svc_common.lm.tokenizer import TextStream, Tokenizer
from svc_common.preference_prompt import ChatMessage, add_preference
from tests.tiny_model import CONTROL_TOKENS, tiny_tokenizer

END = CONTROL_TOKENS.index("<|end|>")
TOKENIZER = Tokenizer(tiny_tokenizer(), frozenset({END}))


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_deltas_together_are_the_text_whatever_bytes_it_is_made_of(text: str) -> None:
    stream = TextStream(TOKENIZER)
    deltas = [stream.push(token_id) for token_id in TOKENIZER.encode_prompt(text)]
    assert "".join(deltas) + stream.finish() == text
    assert all("\ufffd" not in delta for delta in deltas if "\ufffd" not in text)


@settings(max_examples=200, deadline=None)
@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    stream = TextStream(TOKENIZER, tuple(stops))
    released = ""
    for token_id in TOKENIZER.encode_prompt(text) if text else []:
        released += stream.push(token_id)
        if stream.is_stopped:
            break
    released += stream.finish()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    # One byte a token: what is complete first ends the text.
    if ends:
        cut = min(ends)
        starts = [cut - len(s) for s in stops if text[:cut].endswith(s)]
        assert released == text[: min(starts)]
        assert stream.is_stopped
    else:
        assert released == text


def test_an_unfinished_character_is_told_only_at_the_end() -> None:
    first, *_ = TOKENIZER.encode_prompt("é")
    stream = TextStream(TOKENIZER)
    assert stream.push(first) == ""
    assert stream.finish() == "\ufffd"


def test_chats_follow_the_template_and_wishes_stand_in_the_first_user_turn() -> None:
    chat = [
        ChatMessage("system", "s"),
        ChatMessage("user", "one"),
        ChatMessage("assistant", "a"),
        ChatMessage("user", "two"),
    ]
    ids = TOKENIZER.encode_prompt(tuple(add_preference(chat, "Be brief.")))
    text = "".join(TOKENIZER.token_text(token_id) for token_id in ids)
    assert text == (
        "<|bos|><|system|>s<|end|><|user|>[Guidelines] Your task is to generate response by"
        " considering the following principle. [Principles] Be brief. [Instruction] one<|end|>"
        "<|assistant|>a<|end|><|user|>two<|end|><|assistant|>"
    )
    assert chat[1].content == "one"


def test_control_tokens_in_a_callers_text_are_refused_by_name() -> None:
    with pytest.raises(InvalidRequestError, match=r"chat.messages\[0\].content: .*<\|end\|>"):
        TOKENIZER.encode_prompt((ChatMessage("user", "x<|end|>"),))
    assert END in TOKENIZER.encode_prompt("raw text may hold <|end|>")


def test_a_model_without_chat_template_refuses_chats() -> None:
    bare = tiny_tokenizer()
    bare.chat_template = None
    with pytest.raises(ModelMismatchError, match="no chat template"):
        Tokenizer(bare, frozenset()).encode_prompt((ChatMessage("user", "x"),))


def test_fingerprints_tell_vocabularies_apart() -> None:
    other = tiny_tokenizer()
    other.add_tokens(["extra"])
    assert Tokenizer(other, frozenset()).fingerprint != TOKENIZER.fingerprint
    assert Tokenizer(tiny_tokenizer(), frozenset()).fingerprint == TOKENIZER.fingerprint
