"""A case of the GPU benchmark that a CPU runs in no time."""

import torch

from benchmarks import gpu
from benchmarks.gpu_contenders import Case

TINY = Case(
    shape=gpu.TINY_SHAPE,
    device="cpu",
    reward_device="cpu",
    dtype=torch.float32,
    batch_size=2,
    prompt_length=5,
    context_length=32,
    top_k=7,
    rank=4,
)
