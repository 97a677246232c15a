"""Raw prompts of an exact number of tokens."""

import random
from pathlib import Path

from benchmarks.make_models import BASE
from svc_common.lm.tokenizer import Tokenizer, load_tokenizer

WORDS = "I need a table for two people in the city tonight and please find me one that is quiet"


def make_prompts(tokenizer: Tokenizer, lengths: list[int], seed: int = 0) -> list[str]:
    """Return one text a length, no two alike, each of exactly so many tokens."""
    choose = random.Random(seed)
    words = [f" {w}" for w in WORDS.split() if len(tokenizer.encode_prompt(f"I {w}")) == 2]
    pieces = words or list("abcdefgh")  # one token a byte
    texts = []
    for length in lengths:
        text = "".join(["I", *(choose.choice(pieces) for _ in range(length - 1))])
        assert len(tokenizer.encode_prompt(text)) == length, "each piece is one token"
        texts.append(text)
    return texts


def pair_tokenizer(pair: Path) -> Tokenizer:
    """Return the tokenizer of a pair's base model."""
    return load_tokenizer(pair / BASE)
