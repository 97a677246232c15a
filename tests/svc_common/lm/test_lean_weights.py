"""Weights of the lean forward are in memory once, wherever they are not packed."""

import pytest
import torch
from torch import nn

from svc_common.lm.lean_weights import lean_weights
from svc_common.lm.linear import DenseLinear, PackedLinear
from tests.tiny_model import tiny_model

LEAN = ["llama", "mistral", "gemma", "qwen2"]


def num_bytes(tensors: list[torch.Tensor]) -> int:
    """Memory behind tensors, what they share counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def dense(architecture: str, seed: int = 0) -> nn.Module:
    """A model in a number format that is not packed, as no layer on a GPU is."""
    return tiny_model(architecture, seed).half()


@pytest.mark.parametrize("architecture", LEAN)
@torch.inference_mode()
def test_stacked_layers_and_the_models_own_share_their_memory(architecture: str) -> None:
    model, ids = dense(architecture), torch.tensor([[5, 6, 7]])
    before = model(input_ids=ids).logits
    num_before = num_bytes(list(model.parameters()))
    weights = lean_weights(model.base_model, 64)
    for layer, own in zip(weights.layers, model.base_model.layers, strict=True):
        assert isinstance(layer.qkv, DenseLinear)
        assert isinstance(layer.gate_up, DenseLinear)
        attention, mlp = own.self_attn, own.mlp
        stacked = [(layer.qkv, [attention.q_proj, attention.k_proj, attention.v_proj])]
        stacked.append((layer.gate_up, [mlp.gate_proj, mlp.up_proj]))
        for linear, parts in stacked:
            assert torch.equal(linear.weight, torch.cat([part.weight for part in parts]))
            pointers = {part.weight.untyped_storage().data_ptr() for part in parts}
            assert pointers == {linear.weight.untyped_storage().data_ptr()}
            if linear.bias is not None:
                assert torch.equal(linear.bias, torch.cat([part.bias for part in parts]))
                pointers = {part.bias.untyped_storage().data_ptr() for part in parts}
                assert pointers == {linear.bias.untyped_storage().data_ptr()}
    assert num_bytes(list(model.parameters())) == num_before
    assert torch.equal(model(input_ids=ids).logits, before)


def test_two_models_with_equal_layers_share_them() -> None:
    first, second = dense("llama"), dense("llama")
    lean_weights(first.base_model, 64, second=second.base_model)
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"):
        pair = [m.base_model.layers[1].get_submodule(name).weight for m in (first, second)]
        assert pair[0].data_ptr() == pair[1].data_ptr()
    other = dense("llama", seed=1)
    lean_weights(first.base_model, 64, second=other.base_model)
    query, key = (
        other.base_model.layers[0].self_attn.get_submodule(n).weight for n in ("q_proj", "k_proj")
    )
    assert query.untyped_storage().data_ptr() == key.untyped_storage().data_ptr()


def test_packed_layers_leave_the_model_as_it_is() -> None:
    """Packed weights are opaque, and the preference encoder runs the model's own."""
    model = tiny_model("llama")
    weights = lean_weights(model.base_model, 64)
    if not isinstance(weights.layers[0].qkv, PackedLinear):
        pytest.skip("this build of torch does not pack")
    attention = model.base_model.layers[0].self_attn
    storages = {
        layer.weight.untyped_storage().data_ptr() for layer in (attention.q_proj, attention.k_proj)
    }
    assert len(storages) == 2
