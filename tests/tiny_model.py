"""Tiny random models and tokenizers, built in code: every architecture that is promised to work."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

CONTROL_TOKENS = ["<|pad|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
VOCABULARY_SIZE = 256 + len(CONTROL_TOKENS)
ARCHITECTURES = ["llama", "mistral", "gemma", "qwen2", "gpt2"]
CHAT_TEMPLATE = (
    "<|bos|>{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_model(architecture: str = "llama", seed: int = 0, hidden: int = 32) -> nn.Module:
    """Return a random two-layer model, float32, with weights large enough to tell tokens apart."""
    shared = {
        "vocab_size": VOCABULARY_SIZE,
        "bos_token_id": CONTROL_TOKENS.index("<|bos|>"),
        "eos_token_id": CONTROL_TOKENS.index("<|end|>"),
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        **shared,
    }
    torch.manual_seed(seed)
    if architecture == "llama":
        model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True))
    elif architecture == "mistral":
        model = MistralForCausalLM(MistralConfig(**sizes, sliding_window=None))
    elif architecture == "gemma":
        model = GemmaForCausalLM(GemmaConfig(**sizes, head_dim=8))
    elif architecture == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**sizes))
    else:
        model = GPT2LMHeadModel(GPT2Config(n_embd=hidden, n_layer=2, n_head=4, **shared))
    return model.eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte tokenizer with a chat template: any text, one token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(CONTROL_TOKENS + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>"],
        chat_template=CHAT_TEMPLATE,
    )


def save_tiny_model(folder: Path, architecture: str = "llama", seed: int = 0) -> Path:
    """Write a loadable model folder and return it."""
    tiny_model(architecture, seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
