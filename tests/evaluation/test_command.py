"""The one command on tiny models: replies, scores, pairs, report."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation.__main__ import main
from evaluation.contenders import quick_plan
from evaluation.replies import make_replies
from evaluation.report import HTML_NAME, JSON_NAME, write_report
from evaluation.run import EvaluationConfig, evaluate
from tests.evaluation.reply_data import PLAN, write_data, write_models
from training.wishes import OPPOSITES

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
SMALL = replace(PLAN, candidate_counts=(), sample_counts=(2,))
CONFIG = EvaluationConfig(num_new_persona_pairs=1, betas=(0.0, 1.0), num_resamples=20)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def _candidate(text: str, **counts: int) -> dict[str, Any]:
    names = ("words", "excl", "quest", "formal", "casual", "details", "chat")
    return {"text": text, **dict.fromkeys(names, 0), **counts}


def _candidates(number: int) -> list[dict[str, Any]]:
    return [
        _candidate(f"Please wait, sir {number}!", words=4, formal=2, excl=1, chat=1),
        _candidate(f"Sure, it's at {number}, my buddy. Ok?", words=9, casual=3, details=2, quest=1),
    ]


def _user(text: str) -> list[dict[str, str]]:
    return [{"speaker": "user", "text": text}]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that the command reads."""
    folder = write_data(tmp_path_factory.mktemp("data") / "data")
    turn = {"speaker": "assistant", "text": "What city?", "after": ["I hope you enjoy it."]}
    for split in ("train", "dev"):
        _write(folder / f"lm/dialogues_{split}.jsonl.gz", [{"turns": [turn]}] * 6)
        rows = [
            {"id": f"c{i}", "context": _user(f"Hi {i}."), "candidates": _candidates(i)}
            for i in range(6)
        ]
        _write(folder / f"preferences/candidates_{split}.jsonl.gz", rows)
    pairs = [
        {
            "context": _user(f"Go {name}."),
            "preference": f"So {side}.",
            "dims": [{"dim": name, "direction": side}],
            "chosen": "Yes, Oslo it is!",
            "rejected": "Would you like 2?",
        }
        for name, sides in OPPOSITES.items()
        for side in sides
    ]
    _write(folder / "preferences/pairs_dev.jsonl.gz", pairs)
    return folder


def test_models_and_data_become_a_report(data: Path, tmp_path: Path) -> None:
    models, out = write_models(tmp_path / "models"), tmp_path / "out"
    summary = evaluate(data, models, out, SMALL, CONFIG)
    written, page = write_report(summary, out)
    assert json.loads(written.read_text()) == summary
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert summary["about"]["main"] in summary["text"]
    assert {"prompt", "prompted base"} <= set(summary["pairs"])
    groups = summary["pairs"]["prompt"]["rm"]["sum"]
    assert (groups["single"]["n"], groups["unseen_phrasings"]["n"]) == (12, 12)
    assert groups["unseen_personas"]["n"] > 0
    assert summary["pairs"]["prompted base"]["rm"]["sum"]["single"]["value"] is not None
    assert summary["text"]["base"]["fluency"]["perplexity_ratio"]["value"] == 1.0
    assert summary["text"]["base"]["price"]["kl_per_token"]["value"] == 0.0
    before = sorted((out / "replies").iterdir())
    stamps = [path.stat().st_mtime_ns for path in before]
    make_replies(data, models, out, SMALL)
    assert [path.stat().st_mtime_ns for path in sorted((out / "replies").iterdir())] == stamps


def test_missing_data_and_models_end_with_one_line_and_status_2(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, words in ((tmp_path / "none", "missing lm/"), (data, "demo-base")):
        options = ["--data", str(folder), "--models", str(tmp_path), "--out", str(tmp_path / "o")]
        monkeypatch.setattr("sys.argv", ["evaluation", *options, "--quick", "--jobs", "1"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert not (tmp_path / "o" / HTML_NAME).exists()
    assert not (tmp_path / "o" / JSON_NAME).exists()


def test_a_quick_run_says_that_it_was_one() -> None:
    assert quick_plan().quick
