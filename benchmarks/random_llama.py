"""Random models of a Llama's shape, made where they are to run, and what they cost in memory."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from svc_common.lm.forward import Forward
from svc_common.lm.lean import LeanForward
from svc_common.lm.lean_layers import LeanLayer, LeanWeights, RowVectors
from svc_common.lm.linear import Linear, LowRankLinear, make_linear
from svc_common.lm.runner import SlotRunner
from svc_common.lm.static import MAX_GRAPHS, StaticForward

KERNELS_OF_A_LAYER = 24  # about; nodes of a recorded step
BYTES_OF_A_NODE = 8 << 10  # assumed, not measured
ROPE_THETA = 500_000.0


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; the defaults are Llama-3-8B's."""

    num_layers: int = 32
    hidden: int = 4096
    num_heads: int = 32
    num_kv_heads: int = 8
    intermediate: int = 14336
    vocabulary: int = 128256

    @property
    def head_dim(self) -> int:
        return self.hidden // self.num_heads

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of the linear layers of a decoder layer."""
        num_qkv = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        return {
            "qkv": (num_qkv, self.hidden),
            "out": (self.hidden, self.num_heads * self.head_dim),
            "gate_up": (2 * self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
        }

    @property
    def num_in_layers(self) -> int:
        """Weights of all decoder layers, without norms; every decode step reads them."""
        layer = sum(num_out * num_in for num_out, num_in in self.linears.values())
        return self.num_layers * layer

    @property
    def num_in_head(self) -> int:
        """Weights of the output layer; as many has the embedding, of which a step reads rows."""
        return self.vocabulary * self.hidden

    @property
    def num_weights(self) -> int:
        return self.num_in_layers + 2 * self.num_in_head

    def num_adapter(self, rank: int) -> int:
        """Weights of a change of low rank of every linear layer."""
        return self.num_layers * rank * sum(a + b for a, b in self.linears.values())


@dataclass(frozen=True)
class RandomModel:
    """A model whose head is a matrix `[V, D]`."""

    weights: LeanWeights
    head_weight: Tensor
    head: Linear

    def candidate_logits(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """Return the logits of some tokens: `[B, D]`, `[B, K]` int64 -> `[B, K]` float32."""
        rows = torch.index_select(self.head_weight, 0, token_ids.reshape(-1))  # [B * K, D]
        rows = rows.view(*token_ids.shape, -1)  # [B, K, D]
        return torch.bmm(hidden.unsqueeze(1), rows.transpose(1, 2)).squeeze(1).float()


@dataclass(frozen=True)
class Memory:
    """Bytes that a service needs on its device; the graphs' are an estimate never measured."""

    weights: int
    keys_values: int
    graphs: int

    @property
    def total(self) -> int:
        return self.weights + self.keys_values + self.graphs


def memory_estimate(
    shape: Shape,
    dtype: torch.dtype,
    *,
    num_rows: int,
    context_length: int,
    num_models: int = 1,
    rank: int = 0,
    num_graphs: int = MAX_GRAPHS,
) -> Memory:
    """Estimate what `num_models` sets of weights and a cache of `num_rows` rows take."""
    size = dtype.itemsize
    num_values = shape.num_layers * 2 * shape.num_kv_heads * shape.head_dim
    nodes = shape.num_layers * KERNELS_OF_A_LAYER * BYTES_OF_A_NODE
    widest = 4 * shape.intermediate + sum(num_out for num_out, _ in shape.linears.values())
    return Memory(
        weights=size * (num_models * shape.num_weights + shape.num_adapter(rank)),
        keys_values=size * num_rows * context_length * num_values,
        graphs=num_graphs * nodes + size * num_rows * widest,  # temporary memory is shared
    )


@torch.inference_mode()
def random_model(
    shape: Shape, device: torch.device, dtype: torch.dtype, context_length: int, seed: int
) -> RandomModel:
    """Make a model of random weights on `device`."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(num_out: int, num_in: int) -> Tensor:
        weight = torch.empty(num_out, num_in, device=device, dtype=dtype)
        return weight.normal_(0, num_in**-0.5, generator=generator)

    def ones() -> RowVectors:
        return RowVectors(torch.ones(shape.hidden, device=device, dtype=dtype))

    def layer() -> LeanLayer:
        linears = {name: make_linear(normal(*size), None) for name, size in shape.linears.items()}
        return LeanLayer(attention_norm=ones(), mlp_norm=ones(), **linears)

    cos, sin = _rotation(shape.head_dim, context_length, device)
    head_weight = normal(shape.vocabulary, shape.hidden)
    weights = LeanWeights(
        embedding=RowVectors(normal(shape.vocabulary, shape.hidden)),
        embedding_scale=1.0,
        layers=tuple(layer() for _ in range(shape.num_layers)),
        norm=ones(),
        cos=cos.to(dtype),
        sin=sin.to(dtype),
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        attention_scale=shape.head_dim**-0.5,
        norm_eps=1e-5,
        activation=nn.functional.silu,
    )
    return RandomModel(weights, head_weight, make_linear(head_weight, None))


@torch.inference_mode()
def with_adapter(model: RandomModel, shape: Shape, rank: int, seed: int) -> RandomModel:
    """Return the model with a random change of low rank, which rows of group 0 alone see."""
    like = model.head_weight
    generator = torch.Generator(like.device).manual_seed(seed)

    def adapted(linear: Linear, num_out: int, num_in: int) -> Linear:
        down = like.new_empty(num_in, rank).normal_(0, num_in**-0.5, generator=generator)
        up = like.new_empty(rank, num_out).normal_(0, 0.1, generator=generator)
        return LowRankLinear(linear, down, up)

    def changed(layer: LeanLayer) -> LeanLayer:
        return replace(
            layer,
            qkv=adapted(layer.qkv, *shape.linears["qkv"]),
            out=adapted(layer.out, *shape.linears["out"]),
            gate_up=adapted(layer.gate_up, *shape.linears["gate_up"]),
            down=adapted(layer.down, *shape.linears["down"]),
        )

    layers = tuple(changed(layer) for layer in model.weights.layers)
    return replace(model, weights=replace(model.weights, layers=layers))


def new_runner(
    model: RandomModel, num_rows: int, context_length: int, *, has_graphs: bool
) -> SlotRunner:
    """Return a KV cache for a model, its decode steps of fixed shapes or of any."""
    lean = LeanForward(model.weights)
    forward: Forward = StaticForward(lean) if has_graphs else lean
    return SlotRunner(forward, num_slots=num_rows, context_length=context_length)


def _rotation(head_dim: int, context_length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosine and signed sine of every position, as `LeanWeights` has them."""
    exponents = torch.arange(0, head_dim, 2, device=device).float() / head_dim
    angles = torch.outer(torch.arange(context_length, device=device), ROPE_THETA**-exponents)
    cos, sin = angles.cos(), angles.sin()  # [context, head_dim / 2]
    return torch.cat([cos, cos], -1).unsqueeze(1), torch.cat([-sin, sin], -1).unsqueeze(1)
