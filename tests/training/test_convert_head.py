"""A released head is rewritten once as safetensors, and its pickle runs nothing."""

from pathlib import Path

import pytest
import torch

from reward_svc.value_head import load_value_head
from svc_common.lm.loading import ModelFolderError
from tests.svc_common.lm.canary import write_pickles
from training.convert_head import main

WEIGHT, BIAS = torch.randn(4, 4), torch.randn(4)
HEAD = {"v_head.summary.weight": WEIGHT, "v_head.summary.bias": BIAS}


def test_a_pickled_head_is_served_after_it_was_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(HEAD, tmp_path / "value_head.bin")
    with pytest.raises(ModelFolderError, match=r"convert it: python -m training.convert_head "):
        load_value_head(tmp_path, 4, "required")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'value_head.safetensors'}\n"
    head = load_value_head(tmp_path, 4, "required")
    assert head is not None
    assert torch.equal(head.weight, WEIGHT)
    assert torch.equal(head.bias, BIAS)
    assert main([str(tmp_path)]) == 2
    assert "value_head.safetensors: must not exist, does" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["zip", "old", "plain"])
def test_a_hostile_pickle_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    write_pickles(tmp_path / "value_head.bin", tmp_path / "sign", kind)
    assert main([str(tmp_path)]) == 2
    assert "value_head.bin: cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "sign").exists()
    assert not (tmp_path / "value_head.safetensors").exists()


@pytest.mark.parametrize("tensors", [{}, {"v_head.summary.weight": WEIGHT}, [WEIGHT]])
def test_what_is_no_head_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tensors: object
) -> None:
    torch.save(tensors, tmp_path / "value_head.bin")
    assert main([str(tmp_path)]) == 2
    assert "must hold v_head.summary.weight and v_head.summary.bias" in capsys.readouterr().err
