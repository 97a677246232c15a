"""Which forward runs a model: the lean one where it is known to be equal, else transformers'.

On a GPU the lean forward's decode steps are recorded as CUDA graphs, see `static`.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from svc_common.lm.adapters import LowRank
from svc_common.lm.forward import Forward, Step
from svc_common.lm.lean import LeanForward
from svc_common.lm.lean_layers import LeanWeights
from svc_common.lm.lean_weights import can_be_lean, lean_weights
from svc_common.lm.paired import WeightSplit, pair_weights
from svc_common.lm.runner import SlotRunner
from svc_common.lm.static import StaticForward
from svc_common.lm.transformers_forward import TransformersForward

logger = logging.getLogger(__name__)

FORWARDS = ("auto", "lean", "graphs", "transformers")
PROBE_TOLERANCE = 1e-3  # largest allowed difference between the two forwards' hidden states
_NUM_PROBES = 8


@dataclass(frozen=True)
class Network:
    """A model's weights, ready to be run over rows.

    `lean` is None where transformers runs it; `split` is set where the backbone then carries two
    sets of weights. `is_static`: decode steps have few fixed shapes.
    """

    backbone: PreTrainedModel
    context_length: int
    lean: LeanWeights | None = None
    split: WeightSplit | None = None
    is_static: bool = False

    @property
    def kind(self) -> str:
        """Which forward it is, of FORWARDS."""
        if self.lean is None:
            return "transformers"
        return "graphs" if self.is_static else "lean"

    def new_runner(self, num_slots: int) -> SlotRunner:
        """Return a KV cache of `num_slots` rows with the forward that fills it."""
        forward: Forward
        if self.lean is None:
            forward = TransformersForward(self.backbone, self.split)
        else:
            forward = LeanForward(self.lean)
            if self.is_static:
                forward = StaticForward(forward)
        return SlotRunner(forward, num_slots=num_slots, context_length=self.context_length)


def make_network(
    backbone: PreTrainedModel,
    context_length: int,
    kind: str,
    *,
    second: PreTrainedModel | None = None,
    low_rank: Mapping[str, LowRank] | None = None,
) -> Network:
    """Choose the forward of a backbone.

    Args:
        backbone: what rows of group 0 run. Without lean forward it carries `second` afterwards.
        context_length: most tokens of a row.
        kind: of FORWARDS; `auto` is `graphs` on a GPU, `lean` on a CPU.
        second: what rows of group 1 run; `backbone` if None.
        low_rank: changes of layers for group 0 alone; needs the lean forward.

    Raises:
        ValueError: `kind` is lean or graphs and the backbone cannot be; or the two backbones
            differ in kind.
    """
    if kind in ("lean", "graphs") and not can_be_lean(backbone):
        raise ValueError(f"{kind} forward: does not know {type(backbone).__name__}")
    if kind == "transformers" or not can_be_lean(backbone):
        assert not low_rank, "the caller merges"
        split = None if second is None else pair_weights(backbone, second)
        return Network(backbone, context_length, split=split)
    weights = lean_weights(backbone, context_length, second=second, low_rank=low_rank)
    _check(weights, second or backbone, group=1)
    if not low_rank:
        _check(weights, backbone, group=0)
    is_on_gpu = weights.cos.device.type == "cuda"
    is_static = kind == "graphs" or (kind == "auto" and is_on_gpu)
    return Network(backbone, context_length, lean=weights, is_static=is_static)


@torch.inference_mode()
def _check(weights: LeanWeights, backbone: PreTrainedModel, group: int) -> None:
    """Compare the two forwards on a few tokens, so that an unknown kind of model is not guessed.

    Raises:
        ValueError: they differ.
    """
    forward = LeanForward(weights)
    forward.allocate(1, _NUM_PROBES)
    positions = torch.arange(_NUM_PROBES, device=forward.device).unsqueeze(0)  # [1, T]
    ids = positions * 7919 % backbone.config.vocab_size  # [1, T]
    mine = forward.run(Step(slice(0, 1), positions, _NUM_PROBES, num_first=1 - group), ids).float()
    theirs: Tensor = backbone(input_ids=ids, use_cache=False).last_hidden_state.float()
    worst = (mine - theirs).abs().max().item()
    limit = PROBE_TOLERANCE * (1 + theirs.abs().max().item())
    if weights.cos.dtype != torch.float32:
        limit *= 30  # 16-bit numbers round at this size
    if not worst <= limit:
        raise ValueError(f"lean forward: must equal transformers', is off by {worst:.2g}")
