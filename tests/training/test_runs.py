import json
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from training.base_lm import new_model, training_examples, weighted_loss
from training.config import DemoConfig
from training.data import MissingDataError, require_data
from training.encoding import ChatEncoder, pad_batch
from training.loop import learning_rate, train_loop
from training.make_demo_models import main, make_demo_models
from training.saving import load_model, read_metrics
from training.tokenizer import load_tokenizer, make_tokenizer


def three_steps(data: Path, out: Path, config: DemoConfig) -> tuple[list[float], torch.Tensor]:
    torch.manual_seed(1)
    tokenizer = load_tokenizer(out / "demo-base")
    encoder = ChatEncoder(tokenizer)
    model = new_model(config.model, encoder, tokenizer.get_vocab_size())
    groups = training_examples(data, encoder, config.base)
    first = pad_batch(next(groups), encoder.pad_id)
    repeated = (first for _ in range(3))
    loop = config.base.loop
    losses = train_loop(model, repeated, lambda b: weighted_loss(model, b), loop, 1, "test")
    return losses, model.lm_head.weight.detach()


def test_three_steps_lower_the_loss_and_repeat_exactly(
    data: Path, tmp_path: Path, tiny: DemoConfig
) -> None:
    make_tokenizer(data, tmp_path, tiny.tokenizer, tiny.model)
    losses, weights = three_steps(data, tmp_path, tiny)
    again, weights_again = three_steps(data, tmp_path, tiny)
    assert losses[2] < losses[0]
    assert losses == again
    assert torch.equal(weights, weights_again)


def test_batches_repeat_with_the_seed(data: Path, tmp_path: Path, tiny: DemoConfig) -> None:
    make_tokenizer(data, tmp_path, tiny.tokenizer, tiny.model)
    encoder = ChatEncoder(load_tokenizer(tmp_path / "demo-base"))
    first, second = (
        list(islice(training_examples(data, encoder, tiny.base), 40)) for _ in range(2)
    )
    assert first == second


def test_learning_rate_warms_up_and_falls(tiny: DemoConfig) -> None:
    loop = DemoConfig().base.loop
    rates = [learning_rate(step, loop) for step in range(loop.num_steps)]
    assert max(rates) == pytest.approx(loop.learning_rate)
    assert rates.index(max(rates)) <= loop.warmup_steps
    assert rates[-1] == pytest.approx(loop.learning_rate * loop.final_lr_share, rel=0.01)


def test_whole_run_makes_loadable_models_with_cards(
    data: Path, tmp_path: Path, tiny: DemoConfig
) -> None:
    make_demo_models(data, tmp_path, tiny)
    for name in ("demo-base", "demo-base-small", "demo-persrm"):
        folder = tmp_path / name
        assert load_model(folder).num_parameters() == read_metrics(folder)["num_parameters"]
        assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
        assert "CC BY-SA 4.0" in (folder / "README.md").read_text()
    assert json.loads((tmp_path / "demo-persrm/pad_config.json").read_text()) == {
        "stage": 1,
        "conditioning": "prompt",
    }


def test_missing_data_names_folder_and_files(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="dialogues_train") as caught:
        require_data(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert "--data" in str(caught.value)


def test_make_demo_models_without_data_exits_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_demo_models", "--data", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
