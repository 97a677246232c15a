"""`pad evaluate` runs the evaluation with the options it was given."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pad_client.cli import evaluate
from pad_client.cli.app import app


def test_the_exit_status_is_the_evaluations_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = CliRunner().invoke(app, ["evaluate", "--data", str(tmp_path / "none"), "--quick"])
    assert result.exit_code == 2
    assert f"data folder {tmp_path / 'none'}: missing" in capfd.readouterr().err


def test_a_client_without_the_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "_MODULE", "no_such_package")
    result = CliRunner().invoke(app, ["evaluate", "--data", "."])
    assert result.exit_code == 1
    assert "the package `no_such_package` is not installed" in result.stderr
