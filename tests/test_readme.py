"""The generated parts of README.md are what the code and the benchmark log say."""

from dataclasses import fields

import pytest

from docs.update_readme import README, TABLES, newest_entry, parts, with_parts

EMPTY = "".join(f"# {name}\n<!-- {name} -->\n<!-- /{name} -->\nafter\n" for name in parts())


def test_readme_is_up_to_date() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == with_parts(text), "run python docs/update_readme.py"


def test_parts_stand_between_their_markers_and_nothing_else_changes() -> None:
    text = with_parts(EMPTY)
    for settings, prefix in TABLES.values():
        for field in fields(settings):
            assert f"| `{prefix}{field.name.upper()}` |" in text
    for name, part in parts().items():
        assert f"<!-- {name} -->\n{part}<!-- /{name} -->\nafter\n" in text
        text = text.replace(part, "")
    assert text == EMPTY


def test_stale_parts_are_replaced() -> None:
    text = with_parts(EMPTY)
    assert with_parts(text.replace("| `GENERATOR_LISTEN` |", "| `GENERATOR_PORT` |")) == text


def test_the_newest_benchmark_is_the_one_shown() -> None:
    assert (
        newest_entry("# Log\n\n## one\n\nold\n\n## two\n\n- new\n\ntable\n") == "- new\n\ntable\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        EMPTY.replace("<!-- /settings:reward -->", ""),
        EMPTY + "<!-- settings:generator -->",
        "<!-- /settings:generator -->\n" + EMPTY.replace("<!-- /settings:generator -->", ""),
    ],
)
def test_missing_or_doubled_markers_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"README\.md: must hold <!-- settings:"):
        with_parts(text)
