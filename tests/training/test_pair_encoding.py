from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import MistralConfig, MistralForCausalLM

from svc_common.lm.loading import ModelFolderError
from svc_common.preference_prompt import ChatMessage, add_preference
from tests.tiny_model import save_tiny_model, tiny_model, tiny_tokenizer
from training.backbone import Backbone, check_row_length, output_logits
from training.dpo import reply_log_probs
from training.encoding import ChatEncoder
from training.pair_encoding import PairEncoder, PairTable, pack
from training.pair_file import Pair, PairFileError
from training.pairs import make_pair_batch
from training.tokenizer import load_tokenizer

DEMO = Path(__file__).parents[2] / "models/demo-base"
CONTEXT = (
    ChatMessage("user", "I want to eat in San Jose."),
    ChatMessage("assistant", " What kind of food?"),
    ChatMessage("user", "Italian, please.  "),
)
PAIRS = [
    Pair(CONTEXT, "Be brief.", "Ok.", "Certainly, here is one."),
    Pair(CONTEXT[:1], "No questions, please.", " Sure, at 6:30 pm!", "é?"),
]


def test_demo_ids_are_those_of_the_demo_base_model() -> None:
    encoder, bare = PairEncoder(DEMO), ChatEncoder(load_tokenizer(DEMO))
    for pair in PAIRS:
        encoded = encoder.encode(pair)
        assert encoded.plain_prompt == bare.prompt_ids(pair.context)
        guided = add_preference(pair.context, pair.preference)
        assert encoded.guided_prompt == bare.prompt_ids(guided)
        assert encoded.chosen == bare.reply_ids(pair.chosen)
        assert encoded.rejected == bare.reply_ids(pair.rejected)
    assert encoder.pad_id == bare.pad_id


def test_a_reply_ends_with_the_token_that_ends_a_turn_not_the_text(tmp_path: Path) -> None:
    """Llama 3's eos_token ends a text; turns end with another token of its generation config."""
    model, tokenizer = tiny_model(), tiny_tokenizer()
    tokenizer.eos_token = "<|pad|>"
    ends = [0, int(tokenizer.convert_tokens_to_ids("<|end|>"))]
    model.generation_config.eos_token_id = ends  # type: ignore[union-attr]
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    tokenizer.save_pretrained(tmp_path)
    assert PairEncoder(tmp_path).end_id == ends[1]


def test_a_table_returns_the_pairs_that_fit() -> None:
    encoder = PairEncoder(DEMO)
    encoded = [encoder.encode(pair) for pair in PAIRS]
    tensors = pack(encoded)
    longest, shorter = (len(p.guided_prompt) + len(p.chosen) + len(p.rejected) for p in encoded)
    assert longest > shorter
    table = PairTable(tensors["ids"], tensors["lengths"], max_tokens=longest)
    assert [list(pair.rejected) for pair in table] == [pair.rejected for pair in encoded]
    assert [list(pair.plain_prompt) for pair in table] == [p.plain_prompt for p in encoded]
    assert table.row_lengths(guided=True) == [longest, shorter]
    table = PairTable(tensors["ids"], tensors["lengths"], max_tokens=longest - 1)
    assert table.numbers == [1]
    assert list(table[0].guided_prompt) == encoded[1].guided_prompt


def test_control_tokens_in_a_pair_are_refused_with_its_place() -> None:
    pair = Pair(CONTEXT, "Be <|end|> brief.", "Ok.", "No.", where="pairs.jsonl line 9")
    with pytest.raises(PairFileError, match=r"^pairs\.jsonl line 9: preference: must not hold"):
        PairEncoder(DEMO).encode(pair)


def test_a_model_without_chat_template_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="must have a chat template, has none"):
        PairEncoder(tmp_path)


def naive_log_prob(model: nn.Module, prompt: list[int], reply: list[int]) -> float:
    log_probs = model(input_ids=torch.tensor([[*prompt, *reply]])).logits[0].log_softmax(-1)
    return sum(float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(reply))


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma", "qwen2"])
@pytest.mark.parametrize("guided", [True, False])
@torch.no_grad()
def test_replies_in_one_row_score_as_if_alone(
    tmp_path: Path, architecture: str, guided: bool
) -> None:
    encoder = PairEncoder(save_tiny_model(tmp_path, architecture))
    encoded = [encoder.encode(pair) for pair in PAIRS]
    model = tiny_model(architecture)
    scores = reply_log_probs(
        Backbone(model), make_pair_batch(encoded, encoder.pad_id, guided=guided)
    )
    for row, pair in zip(scores.tolist(), encoded, strict=True):
        prompt = list(pair.prompt(guided))
        for score, reply in zip(row, (pair.chosen, pair.rejected), strict=True):
            assert score == pytest.approx(naive_log_prob(model, prompt, list(reply)), abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gemma"])
@torch.no_grad()
def test_the_output_layer_alone_gives_the_models_logits(architecture: str) -> None:
    model = tiny_model(architecture)
    ids = torch.arange(9).unsqueeze(0)
    mine = output_logits(model, model.base_model(input_ids=ids).last_hidden_state)  # type: ignore[operator]
    assert torch.equal(mine, model(input_ids=ids).logits)


def test_a_sliding_window_shorter_than_the_rows_is_refused() -> None:
    config = MistralConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, intermediate_size=8, sliding_window=64,
    )  # fmt: skip
    model = MistralForCausalLM(config)
    check_row_length(model, 64, "model.base=m")
    rule = (
        r"data.max_tokens: must be at most the sliding attention window 64 of model.base=m, got 65"
    )
    with pytest.raises(ModelFolderError, match=rule):
        check_row_length(model, 65, "model.base=m")
