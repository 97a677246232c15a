"""The check of guided replies runs on fresh models and reaches the reward model's card."""

from pathlib import Path

import pytest

from evaluation.quick_check import PREFERENCES, CheckConfig, check_and_report
from training.config import DemoConfig
from training.make_demo_models import make_demo_models
from training.saving import read_metrics


def test_the_check_counts_every_preference_and_its_table_is_in_the_card(
    data: Path, tmp_path: Path, tiny: DemoConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    make_demo_models(data, tmp_path, tiny)
    card = tmp_path / "demo-persrm/README.md"
    assert "Greedy replies" not in card.read_text()
    config = CheckConfig(num_prompts=2, betas=(1.0,), max_new_tokens=4)
    check_and_report(data, tmp_path, config, num_texts=1)
    rows = read_metrics(tmp_path / "demo-persrm")["check"]
    assert len(rows) == 1 + len(PREFERENCES)
    assert "| excitement:lively | I love exclamation marks! | 1.0 |" in card.read_text()
    assert "excitement:lively" in capsys.readouterr().out
