"""Devices and number formats: what serves, and what is refused by name."""

from pathlib import Path

import pytest
import torch

from svc_common.lm.loading import DTYPES, ModelFolderError, check_device, load_model
from svc_common.lm.transfers import to_device, to_host, wait_for_stream
from svc_common.settings import SettingsError
from tests.tiny_model import save_tiny_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_the_cpu_is_always_there(device: str) -> None:
    check_device("X_DEVICE", device)


@pytest.mark.parametrize(
    "device",
    [
        f"cuda:{torch.cuda.device_count()}",
        *("cuda:99", "cuda:-1", "cuda:", "gpu", "", " cpu", "meta", "hpu", "vulkan"),
        *(() if torch.cuda.is_available() else ("cuda",)),
    ],
)
def test_a_device_that_is_not_there_is_refused_and_those_that_are_are_listed(device: str) -> None:
    rule = r"X_DEVICE: must be a torch device of this machine \(cpu.*\), got "
    with pytest.raises(SettingsError, match=rule) as caught:
        check_device("X_DEVICE", device)
    assert str(caught.value).endswith(repr(device))


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("kind", ["lean", "graphs", "transformers"])
def test_every_number_format_serves_with_every_forward(
    tmp_path: Path, dtype: str, kind: str
) -> None:
    folder = save_tiny_model(tmp_path / "m")
    kept = {}
    for name in ("float32", dtype):
        loaded = load_model(folder, dtype=name, device="cpu", context_length=64, setting="X")
        network = loaded.network(kind)
        assert network.kind == kind
        runner = network.new_runner(2)
        row = runner.open()
        runner.append(row, [9, 8, 7])
        hidden = runner.decode([row], [6])
        assert hidden.dtype == DTYPES[name]
        kept[name] = hidden.float()
    torch.testing.assert_close(kept[dtype], kept["float32"], rtol=0.1, atol=0.1)


def test_auto_is_the_eager_forward_on_a_cpu(tmp_path: Path) -> None:
    loaded = load_model(
        save_tiny_model(tmp_path / "m"),
        dtype="float32",
        device="cpu",
        context_length=64,
        setting="X",
    )
    assert loaded.network("auto").kind == "lean"


def test_graphs_of_an_unknown_architecture_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m", "gpt2")
    loaded = load_model(folder, dtype="float32", device="cpu", context_length=64, setting="X")
    with pytest.raises(ModelFolderError, match="graphs forward: does not know GPT2Model"):
        loaded.network("graphs")


def test_on_a_cpu_transfers_cost_no_copy() -> None:
    tensor = torch.arange(3)
    assert to_device(tensor, CPU) is tensor
    (back,) = to_host(tensor)
    assert back.data_ptr() == tensor.data_ptr()
    wait_for_stream(CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_comes_back_from_a_gpu_is_what_went_there() -> None:
    sent = [torch.randn(5, 3), torch.arange(7)]
    back = to_host(*(to_device(tensor, torch.device("cuda:0")) for tensor in sent))
    for one, other in zip(sent, back, strict=True):
        assert torch.equal(one, other)
