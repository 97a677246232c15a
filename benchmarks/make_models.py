"""Random-weight model pairs of several sizes, made once and kept in a folder.

Speed does not depend on what weights say, so random ones of the right shapes stand for trained
models. Each pair is a folder as the embedded stack wants it: `demo-base`, and as `demo-persrm`
theta with weights of its own (`<size>-full`) or as a LoRA adapter of the base (`<size>-lora`).
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "build/benchmarks/models"
TOKENIZER_DIR = ROOT / "models/demo-base"
BASE, THETA = "demo-base", "demo-persrm"  # as the embedded stack names them
LORA_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA_RANK = 8
NOISE = 0.1  # of theta's weights beside the base's, so that some tokens change


@dataclass(frozen=True)
class Size:
    """The shape of a Llama model; the output layer is the embedding."""

    hidden: int
    num_layers: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    vocabulary: int
    context_length: int = 4608


SIZES = {
    "tiny": Size(32, 2, 64, 4, 2, 4096),
    "paced": Size(32, 1, 64, 4, 2, 512),
    "8m": Size(256, 6, 688, 4, 4, 6144),
    "30m": Size(448, 10, 1216, 8, 8, 16384),
    "135m": Size(576, 30, 1536, 9, 3, 49152),
}


def demo_pair() -> Path:
    """Return the folder of the bundled, trained pair."""
    return ROOT / "models"


def pair_dir(name: str, cache: Path = CACHE) -> Path:
    """Return the folder of a pair (`demo`, or `<size>-full`, `<size>-lora`), made if missing."""
    if name == "demo":
        return demo_pair()
    size, _, kind = name.partition("-")
    folder = cache / name
    if not folder.is_dir():
        part = cache / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        _make_pair(part, SIZES[size], kind)
        part.rename(folder)
    return folder


def _make_pair(folder: Path, size: Size, kind: str) -> None:
    model = _random_llama(size)
    model.save_pretrained(folder / BASE)
    _save_tokenizer(folder / BASE, size.vocabulary)
    theta = folder / THETA
    if kind == "lora":
        _save_adapter(model, theta)
    else:
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise * parameter.std() * NOISE)
        model.save_pretrained(theta)
        _save_tokenizer(theta, size.vocabulary)
    (theta / "pad_config.json").write_text(json.dumps({"stage": 1, "conditioning": "prompt"}))


def _random_llama(size: Size) -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_kv_heads,
        max_position_embeddings=size.context_length,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def _save_adapter(model: LlamaForCausalLM, folder: Path) -> None:
    """Write a LoRA adapter of all linear layers with small random changes."""
    config = LoraConfig(
        r=LORA_RANK,
        lora_alpha=2 * LORA_RANK,
        target_modules=LORA_LAYERS,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.mul_(NOISE)
    adapted.save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    values = json.loads(path.read_text()) | {"base_model_name_or_path": f"../{BASE}"}
    path.write_text(json.dumps(values))
    (folder / "README.md").unlink(missing_ok=True)


def _save_tokenizer(folder: Path, vocabulary: int) -> None:
    """Write the bundled model's tokenizer, filled up with words that no text is split into.

    Of a smaller vocabulary a byte tokenizer is written.
    """
    shutil.copy(TOKENIZER_DIR / "tokenizer_config.json", folder)
    values = json.loads((TOKENIZER_DIR / "tokenizer.json").read_text(encoding="utf-8"))
    known = values["model"]["vocab"]
    if len(known) > vocabulary:
        _byte_tokenizer(vocabulary).save_pretrained(folder)
        return
    for number in range(len(known), vocabulary):
        known[f"\u0120w{number}"] = number
    text = json.dumps(values, ensure_ascii=False)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")


def _byte_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token a byte, and further tokens that no text is split into."""
    controls = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokens = controls + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens += [f"\u0120w{number}" for number in range(len(tokens), vocabulary)]
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=controls[0],
        bos_token=controls[1],
        eos_token=controls[2],
        additional_special_tokens=controls[3:],
    )
