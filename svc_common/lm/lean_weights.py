"""From a transformers model to the weights of the lean forward, with one set or two."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from svc_common.lm.adapters import LowRank
from svc_common.lm.lean_layers import LeanLayer, LeanWeights, RowVectors
from svc_common.lm.linear import DenseLinear, Linear, LowRankLinear, PairedLinear, make_linear

ARCHITECTURES = ("LlamaModel", "MistralModel", "Qwen2Model", "GemmaModel")
# Rotations that depend on nothing but the position.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATE_UP = ("mlp.gate_proj", "mlp.up_proj")


def can_be_lean(backbone: PreTrainedModel) -> bool:
    """Whether the lean forward computes what this backbone computes."""
    rope = getattr(backbone.config, "rope_parameters", None) or {}
    return type(backbone).__name__ in ARCHITECTURES and rope.get("rope_type") in ROPE_TYPES


def lean_weights(
    backbone: PreTrainedModel,
    context_length: int,
    *,
    second: PreTrainedModel | None = None,
    low_rank: Mapping[str, LowRank] | None = None,
) -> LeanWeights:
    """Return the weights of `backbone`, of which rows of group 0 and 1 may see different ones.

    Args:
        backbone: a model that `can_be_lean`.
        context_length: positions that are prepared.
        second: what rows of group 1 run; `backbone`, if None. Equal layers are shared.
        low_rank: changes of linear layers, by name, that rows of group 0 see and group 1 does not.
    """
    config = backbone.config
    make = _Maker(backbone, second or backbone, low_rank or {})
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cos, sin = _rotation(backbone, context_length)
    return LeanWeights(
        embedding=make.vectors("embed_tokens"),
        embedding_scale=float(getattr(backbone.embed_tokens, "scalar_embed_scale", 1.0)),
        layers=tuple(_layer(make, f"layers.{i}.") for i in range(config.num_hidden_layers)),
        norm=make.vectors("norm"),
        cos=cos,
        sin=sin,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        attention_scale=head_dim**-0.5,
        norm_eps=config.rms_norm_eps,
        activation=_activation(config.hidden_act),
    )


def _layer(make: "_Maker", prefix: str) -> LeanLayer:
    return LeanLayer(
        attention_norm=make.vectors(prefix + "input_layernorm"),
        qkv=make.linear([prefix + name for name in _QKV]),
        out=make.linear([prefix + "self_attn.o_proj"]),
        mlp_norm=make.vectors(prefix + "post_attention_layernorm"),
        gate_up=make.linear([prefix + name for name in _GATE_UP]),
        down=make.linear([prefix + "mlp.down_proj"]),
    )


class _Maker:
    """Takes layers of two models by name and makes one of them."""

    def __init__(
        self, first: PreTrainedModel, second: PreTrainedModel, low_rank: Mapping[str, LowRank]
    ) -> None:
        self._first = first
        self._second = second
        self._low_rank = low_rank

    def linear(self, names: Sequence[str]) -> Linear:
        """Return one layer that gives the outputs of all `names` side by side."""
        weight, bias = _stacked(self._first, names)
        result = _made(self._first, names, weight, bias)
        if self._second is not self._first:
            other_weight, other_bias = _stacked(self._second, names)
            if not (_equal(weight, other_weight) and _equal(bias, other_bias)):
                other = _made(self._second, names, other_weight, other_bias)
                result = PairedLinear(result, other)
            elif isinstance(result, DenseLinear):
                _share(self._second, names, weight, bias)
        changes = [self._low_rank.get(name) for name in names]
        if any(change is not None for change in changes):
            widths = [self._first.get_submodule(name).weight.shape[0] for name in names]
            result = LowRankLinear(result, *_side_by_side(changes, widths))
        return result

    def vectors(self, name: str) -> RowVectors:
        """Return a norm's or an embedding's weights."""
        first, second = (_factor(m.get_submodule(name)) for m in (self._first, self._second))
        return RowVectors(first, None if _equal(first, second) else second)


def _factor(layer: nn.Module) -> Tensor:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    # Gemma stores how much a norm's factor differs from 1.
    return 1.0 + weight if type(layer).__name__ == "GemmaRMSNorm" else weight


def _stacked(model: PreTrainedModel, names: Sequence[str]) -> tuple[Tensor, Tensor | None]:
    """Return weight `[sum of outs, in]` and bias of several linear layers of one input."""
    layers = [model.get_submodule(name) for name in names]
    if len(layers) == 1:
        return layers[0].weight, layers[0].bias
    biases = [layer.bias for layer in layers]
    bias = None if biases[0] is None else torch.cat(biases)
    return torch.cat([layer.weight for layer in layers]), bias


def _made(
    model: PreTrainedModel, names: Sequence[str], weight: Tensor, bias: Tensor | None
) -> Linear:
    """Return a layer of what was stacked; where it is not packed, the model then lies in it too."""
    layer = make_linear(weight, bias)
    if isinstance(layer, DenseLinear):
        _share(model, names, weight, bias)
    return layer


def _share(
    model: PreTrainedModel, names: Sequence[str], weight: Tensor, bias: Tensor | None
) -> None:
    """Make the weights of layers parts of a stacked one, so that they are in memory once."""
    start = 0
    for name in names:
        layer = model.get_submodule(name)
        stop = start + layer.weight.shape[0]
        layer.weight.data = weight.detach()[start:stop]
        if bias is not None:
            layer.bias.data = bias.detach()[start:stop]
        start = stop


def _equal(one: Tensor | None, two: Tensor | None) -> bool:
    if one is None or two is None:
        return one is two
    return one is two or torch.equal(one, two)


def _side_by_side(
    changes: Sequence[LowRank | None], widths: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return `down` `[in, sum of r]` and `up` `[sum of r, sum of outs]` of layers of one input."""
    present = [change for change in changes if change is not None]
    down = torch.cat([change.down for change in present], dim=1)
    blocks = [
        change.up if change is not None else down.new_zeros(0, width)
        for change, width in zip(changes, widths, strict=True)
    ]
    up: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return down, up


def _rotation(backbone: PreTrainedModel, context_length: int) -> tuple[Tensor, Tensor]:
    """Return cosine and signed sine of every position: `[context, 1, head_dim]` each."""
    weight = backbone.embed_tokens.weight
    positions = torch.arange(context_length, device=weight.device).unsqueeze(0)  # [1, context]
    cos, sin = backbone.rotary_emb(weight[:1], positions)  # [1, context, head_dim]
    half = sin.shape[-1] // 2
    signed = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
    return cos[0].unsqueeze(1), signed[0].unsqueeze(1)


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name in ("silu", "swish"):
        return nn.functional.silu
    function: Callable[[Tensor], Tensor] = ACT2FN[name]
    return function
