from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from svc_common.preference_prompt import ChatMessage, add_preference
from training.encoding import ChatEncoder
from training.tokenizer import load_tokenizer

MODELS = Path(__file__).parents[2] / "models"
NAMES = ("demo-base", "demo-persrm", "demo-base-small")
MESSAGES = [
    ChatMessage("user", "I want to eat in San Jose."),
    ChatMessage("assistant", "What kind of food?"),
    ChatMessage("user", "Italian, please."),
]


@pytest.mark.parametrize("name", NAMES)
def test_bundled_model_loads_and_answers(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
    model = AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32)
    prompt = ChatEncoder(load_tokenizer(MODELS / name)).prompt_ids(MESSAGES)
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=60,
        do_sample=False,
    )
    reply = output[0, len(prompt) :].tolist()
    assert reply[-1] == tokenizer.eos_token_id == model.generation_config.eos_token_id
    assert 1 <= len(tokenizer.decode(reply, skip_special_tokens=True).split()) < 60


@pytest.mark.parametrize("name", NAMES)
def test_prompt_rendering_equals_the_template(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
    guided = add_preference(MESSAGES, "Be brief.")
    rendered = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in guided],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert rendered == (
        "<|bos|><|user|>[Guidelines] Your task is to generate response by considering the following"
        " principle. [Principles] Be brief. [Instruction] I want to eat in San Jose.<|end|>"
        "<|assistant|>What kind of food?<|end|><|user|>Italian, please.<|end|><|assistant|>"
    )
    ids = ChatEncoder(load_tokenizer(MODELS / name)).prompt_ids(guided)
    assert tokenizer.decode(ids) == rendered


def test_the_models_share_one_tokenizer() -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert len({(MODELS / name / file).read_bytes() for name in NAMES}) == 1


def test_bundle_is_small() -> None:
    assert sum(path.stat().st_size for path in MODELS.rglob("*")) < 60 * 1024**2
