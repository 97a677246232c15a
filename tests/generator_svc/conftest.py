"""What all tests of the generator's parts share."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Tiny tensors on several threads take many times as long, mostly waiting."""
    torch.set_num_threads(1)
