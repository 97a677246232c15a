from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from svc_common.preference_prompt import ChatMessage
from training.config import TokenizerConfig
from training.encoding import ChatEncoder
from training.tokenizer import corpus, save_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(data: Path) -> Tokenizer:
    return train_tokenizer(corpus(data), TokenizerConfig(vocab_size=400))


@pytest.mark.parametrize(
    "text",
    ["Oslo Inn at 6:30 pm, $1,249!", "naïve 日本 😀", "\n\n  two  spaces\t", "", "x" * 300],
)
def test_any_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_encoder_equals_chat_template(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path, max_positions=64)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    messages = [
        ChatMessage("system", "Be kind."),
        ChatMessage("user", "Find a hotel in Oslo."),
        ChatMessage("assistant", "Oslo Inn."),
        ChatMessage("user", " 4 stars?"),
    ]
    rendered = loaded.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert rendered == ChatEncoder(tokenizer).prompt_ids(messages)
    assert loaded.eos_token == "<|end|>"
    assert loaded.pad_token_id == ChatEncoder(tokenizer).pad_id
