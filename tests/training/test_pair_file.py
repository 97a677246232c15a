import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from svc_common.preference_prompt import ChatMessage
from tests.training.recipes import pair_row, write_rows
from training.pair_file import PairFileError, read_pair_files

GOOD = pair_row("Oslo", "Be brief.")


def test_rows_are_read_with_labels(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", [GOOD])
    (pair,) = read_pair_files([path])
    assert pair.context == (ChatMessage("user", "A hotel in Oslo?"),)
    assert (pair.preference, pair.chosen, pair.rejected) == tuple(
        GOOD[name] for name in ("preference", "chosen", "rejected")
    )
    assert pair.labels == ("brevity:short",)
    assert pair.where == f"{path} line 1"


def test_demo_rows_are_read_as_they_are(tmp_path: Path) -> None:
    dims = [{"dim": "brevity", "direction": "short"}, {"dim": "warmth", "direction": "friendly"}]
    row = {
        "id": "tr-1",
        "context": [{"speaker": "user", "text": "A hotel?"}],
        "preference": "Be brief.",
        "dims": dims,
        "persona": "p01",
        "chosen": "Yes.",
        "rejected": "No, sorry.",
    }
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(row).encode()))
    (pair,) = read_pair_files([path])
    assert pair.labels == ("brevity:short", "warmth:friendly")
    assert (pair.persona, pair.group) == ("p01", "persona")
    assert pair.context == (ChatMessage("user", "A hotel?"),)


def test_flip_pairs_are_ordinary_rows(tmp_path: Path) -> None:
    rows = [pair_row("Oslo", wish) for wish in ("Be brief.", "Write more.")]
    first, second = read_pair_files([write_rows(tmp_path / "pairs.jsonl", rows)])
    assert (first.chosen, first.rejected) == (second.rejected, second.chosen)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chosen": ""}, "line 2: chosen: must be non-empty text, got ''"),
        ({"preference": None}, "line 2: preference: must be non-empty text, got None"),
        ({"rejected": GOOD["chosen"]}, "line 2: rejected: must differ from chosen"),
        ({"context": []}, "line 2: context: must be a non-empty list of messages"),
        (
            {"context": [{"role": "boss", "content": "Hi"}]},
            r"line 2: context\[0\]\.role: must be one of user, assistant, system, got 'boss'",
        ),
        (
            {"context": [{"role": "assistant", "content": "Hi"}]},
            r"line 2: context\[0\]: must be of the user, as the replies answer it, got 'assistant'",
        ),
        ({"context": [{"role": "user"}]}, r"line 2: context\[0\]\.content: must be non-empty"),
        ({"labels": "brevity"}, "line 2: labels: must be a list of texts, got 'brevity'"),
        ({"chosen": "a\ud83d"}, "line 2: chosen: must not hold a lone surrogate, has one at .* 1"),
        ({"labels": ["\ud83d"]}, "line 2: labels: must not hold a lone surrogate"),
        ({"persona": 3}, "line 2: persona: must be text or null, got 3"),
        ({"labels": None, "dims": [{"dim": "brevity"}]}, "line 2: dims: must be objects with dim"),
    ],
)
def test_an_error_names_file_line_field_rule_and_value(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", [GOOD, {**GOOD, **changes}])
    with pytest.raises(PairFileError, match=f"^{path} {message}"):
        read_pair_files([path])


@pytest.mark.parametrize("line", ["{", "[1]"])
def test_a_line_that_is_no_object_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(PairFileError, match="line 1: must be"):
        read_pair_files([path])


def test_files_without_pairs_and_without_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PairFileError, match="must hold pairs, got none"):
        read_pair_files([write_rows(tmp_path / "pairs.jsonl", [])])
    with pytest.raises(PairFileError, match=r"nowhere\.jsonl: cannot be read"):
        read_pair_files([tmp_path / "nowhere.jsonl"])
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(b"{}" * 100)[:20])
    with pytest.raises(PairFileError, match="cannot be read"):
        read_pair_files([tmp_path / "torn.jsonl.gz"])


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert len(read_pair_files([path])) == 1
