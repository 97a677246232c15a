"""Copies between host and device that make the host wait no longer than it must."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on `device`; the host does not wait until it is there.

    What is queued on the same stream afterwards sees it. The pinned copy in between is not used
    again before it was read: torch's allocator of pinned memory sees to that.
    """
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors of one device on the host: all are copied, then waited for once."""
    if all(tensor.device.type != "cuda" for tensor in tensors):
        return tuple(tensor.cpu() for tensor in tensors)
    copies = tuple(torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors)
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    wait_for_stream(tensors[0].device)
    return copies


def wait_for_stream(device: torch.device) -> None:
    """Wait for what this thread has queued on its stream, and for nothing else on the device."""
    if device.type == "cuda":
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(device))
        done.synchronize()
