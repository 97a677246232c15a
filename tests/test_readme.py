"""The generated parts of README.md and docs/ are what the code and the benchmark log say."""

from dataclasses import fields
from pathlib import Path

import pytest

from docs.update_readme import TABLES, documents, newest_entry, settings_parts, with_parts

PARTS = settings_parts()
EMPTY = "".join(f"# {name}\n<!-- {name} -->\n<!-- /{name} -->\nafter\n" for name in PARTS)


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(EMPTY, encoding="utf-8")
    return path


@pytest.mark.parametrize(("path", "parts"), documents(), ids=lambda value: str(value)[-30:])
def test_generated_parts_are_up_to_date(path: Path, parts: dict[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == with_parts(path, parts), "run python docs/update_readme.py"


def test_parts_stand_between_their_markers_and_nothing_else_changes(readme: Path) -> None:
    text = with_parts(readme, PARTS)
    for settings, prefix in TABLES.values():
        for field in fields(settings):
            assert f"| `{prefix}{field.name.upper()}` |" in text
    for name, part in PARTS.items():
        assert f"<!-- {name} -->\n{part}<!-- /{name} -->\nafter\n" in text
        text = text.replace(part, "")
    assert text == EMPTY


def test_stale_parts_are_replaced(readme: Path) -> None:
    text = with_parts(readme, PARTS)
    readme.write_text(text.replace("| `GENERATOR_LISTEN` |", "| `GENERATOR_PORT` |"), "utf-8")
    assert with_parts(readme, PARTS) == text


def test_the_newest_benchmark_is_the_one_shown() -> None:
    log = "# Log\n\n## 1: models\n\nold\n\n## 2: models\n\n- new\n\ntable\n\n## 3: other\n\nx\n"
    assert newest_entry(log, "models") == "- new\n\ntable\n"


@pytest.mark.parametrize(
    "text",
    [
        EMPTY.replace("<!-- /settings:reward -->", ""),
        EMPTY + "<!-- settings:generator -->",
        "<!-- /settings:generator -->\n" + EMPTY.replace("<!-- /settings:generator -->", ""),
    ],
)
def test_missing_or_doubled_markers_are_named(readme: Path, text: str) -> None:
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"README\.md: must hold <!-- settings:"):
        with_parts(readme, PARTS)
