"""Embeddings are means over the tokens, and of the text alone."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel, RobertaConfig, RobertaModel

from reward_svc.preference_encoders import BackboneEncoder, FolderEncoder
from svc_common.errors import InvalidRequestError
from svc_common.lm.loading import ModelFolderError
from svc_common.lm.paired import pair_weights
from svc_common.lm.tokenizer import Tokenizer
from tests.reward_svc.oracle import TOKENIZER, guideline
from tests.reward_svc.small_encoder import MAX_TOKENS, WORDS, save_small_encoder
from tests.tiny_model import tiny_model

OURS = Tokenizer(TOKENIZER, frozenset())
TEXTS = ["be brief .", "rhyme", "be kind . be brief . be"]


def test_a_backbones_embedding_is_the_mean_over_the_preferences_prompt() -> None:
    model = tiny_model()
    encoder = BackboneEncoder(model.base_model, OURS)
    assert encoder.size == 32
    embeddings = encoder.encode(["Be brief.", "Rhyme."])
    assert (embeddings.dtype, embeddings.requires_grad) == (torch.float32, False)
    for text, mine in zip(["Be brief.", "Rhyme."], embeddings, strict=True):
        prompt = f"<|bos|><|user|>{guideline(text)}"
        ids = TOKENIZER(prompt, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            expected = model.base_model(ids).last_hidden_state[0].mean(0)
        torch.testing.assert_close(mine, expected)
    assert encoder.encode([]).shape == (0, 32)


def test_a_paired_backbone_embeds_with_the_first_weights_whatever_ran_before() -> None:
    plain = BackboneEncoder(tiny_model(seed=1).base_model, OURS).encode(["Be brief."])
    paired = tiny_model(seed=1).base_model
    split = pair_weights(paired, tiny_model(seed=2).base_model)
    encoder = BackboneEncoder(paired, OURS, split=split)
    for num_first in (0, 1, 7):
        split.num_first = num_first
        assert torch.equal(encoder.encode(["Be brief."]), plain)


def test_a_backbone_refuses_what_its_context_cannot_hold() -> None:
    encoder = BackboneEncoder(tiny_model().base_model, OURS, max_tokens=150)
    encoder.check("text", "x" * 25)
    for text in ("x" * 40, "x" * 10_000):
        with pytest.raises(InvalidRequestError, match="text: must"):
            encoder.check("text", text)
    with pytest.raises(InvalidRequestError, match="text: must not hold the control token"):
        encoder.check("text", "<|end|>")


def test_a_folders_embedding_is_the_mean_over_the_bare_texts_tokens(tmp_path: Path) -> None:
    folder = save_small_encoder(tmp_path / "encoder")
    encoder = FolderEncoder(folder, "cpu")
    assert encoder.size == 24
    embeddings = encoder.encode(TEXTS)
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    for text, mine in zip(TEXTS, embeddings, strict=True):
        words = [word for word in text.split() if word]
        ids = torch.tensor([[1, *(WORDS.index(word) for word in words), 2]])  # [CLS] ... [SEP]
        with torch.no_grad():
            torch.testing.assert_close(mine, model(ids).last_hidden_state[0].mean(0))
    assert torch.equal(encoder.encode(TEXTS[1:2])[0], embeddings[1])
    assert encoder.encode([]).shape == (0, 24)


def test_a_text_that_would_be_truncated_is_refused(tmp_path: Path) -> None:
    encoder = FolderEncoder(save_small_encoder(tmp_path / "encoder"), "cpu")
    fits, too_long = "be " * (MAX_TOKENS - 2), "be " * (MAX_TOKENS - 1)
    assert encoder.encode([fits]).shape == (1, 24)
    with pytest.raises(InvalidRequestError, match=r"at most 12 tokens .* encoder, got 13"):
        encoder.encode([too_long])
    with pytest.raises(InvalidRequestError, match=r"preferences\[2\].text: must have at most 12"):
        encoder.check("preferences[2].text", too_long)


def test_positions_that_begin_behind_the_paddings_leave_less_room(tmp_path: Path) -> None:
    folder = save_small_encoder(tmp_path / "encoder")
    config = RobertaConfig(
        vocab_size=len(WORDS),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=0,
        type_vocab_size=1,
    )
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    encoder = FolderEncoder(folder, "cpu")
    assert encoder.encode(["be " * (MAX_TOKENS - 3)]).isfinite().all()
    with pytest.raises(InvalidRequestError, match="at most 11 tokens"):
        encoder.encode(["be " * (MAX_TOKENS - 2)])


def test_a_folder_that_cannot_encode_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="nowhere: must be a transformers folder"):
        FolderEncoder(tmp_path / "nowhere", "cpu")
    folder = save_small_encoder(tmp_path / "encoder")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("query.weight"))
    kept = {key: value for key, value in tensors.items() if key != name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFolderError, match=f"must hold all weights, 1 lack: {name}"):
        FolderEncoder(folder, "cpu")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelFolderError, match="encoder: cannot be loaded"):
        FolderEncoder(folder, "cpu")
