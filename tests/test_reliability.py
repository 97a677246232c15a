"""docs/reliability.md says what the registry says, and names tests that exist."""

from pathlib import Path

import pytest

from docs import reliability

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_is_what_the_registry_gives() -> None:
    page = reliability.PAGE.read_text(encoding="utf-8")
    assert page == reliability.page(reliability.load()), "run python docs/reliability.py"


def test_every_named_test_exists() -> None:
    for row in reliability.load():
        for test in row["test"]:
            path, _, name = test.partition("::")
            assert (
                f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")
                if name
                else (ROOT / path).exists()
            ), test


def test_a_figure_is_noted_with_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, page = tmp_path / "reliability.json", tmp_path / "reliability.md"
    registry.write_text('[{"row": "a", "promise": "it holds", "test": []}]')
    monkeypatch.setattr(reliability, "REGISTRY", registry)
    monkeypatch.setattr(reliability, "PAGE", page)
    reliability.record("a", "5 of 5 | 1.2 s", "make it")
    (row,) = reliability.load()
    assert row["figure"] == "5 of 5 | 1.2 s"
    assert "| it holds | none yet | 5 of 5 \\| 1.2 s | " in page.read_text()
    with pytest.raises(ValueError, match="must be one of a, got 'b'"):
        reliability.record("b", "", "")
