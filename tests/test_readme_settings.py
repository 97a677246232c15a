from dataclasses import fields

import pytest

from docs.update_readme import README, TABLES, with_tables

EMPTY = "".join(f"# {name}\n<!-- {name} -->\n<!-- /{name} -->\nafter\n" for name in TABLES)


def test_readme_lists_the_settings_as_they_are():
    text = README.read_text(encoding="utf-8")
    assert text == with_tables(text), "run python docs/update_readme.py"


def test_tables_stand_between_their_markers_and_nothing_else_changes():
    text = with_tables(EMPTY)
    for settings, prefix in TABLES.values():
        for field in fields(settings):
            assert f"| `{prefix}{field.name.upper()}` |" in text
    rest = [line for line in text.splitlines() if not line.startswith("|")]
    assert rest == EMPTY.splitlines()


def test_stale_tables_are_replaced():
    text = with_tables(EMPTY)
    assert with_tables(text.replace("| `GENERATOR_LISTEN` |", "| `GENERATOR_PORT` |")) == text


@pytest.mark.parametrize(
    "text",
    [
        EMPTY.replace("<!-- /settings:reward -->", ""),
        EMPTY + "<!-- settings:generator -->",
        "<!-- /settings:generator -->\n" + EMPTY.replace("<!-- /settings:generator -->", ""),
    ],
)
def test_missing_or_doubled_markers_are_named(text):
    with pytest.raises(ValueError, match=r"README\.md: must hold <!-- settings:"):
        with_tables(text)
