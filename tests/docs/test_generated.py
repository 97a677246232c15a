"""The generated parts of README.md and docs/ are what code, protos and benchmark log say."""

import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from docs.api_reference import PROTOS, api_reference
from docs.command_reference import command_reference
from docs.update_readme import TABLES, documents, newest_entry, settings_parts, with_parts
from pad.v1 import common_pb2, generator_pb2, profile_pb2, reward_pb2

PARTS = settings_parts()
EMPTY = "".join(f"# {name}\n<!-- {name} -->\n<!-- /{name} -->\nafter\n" for name in PARTS)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(EMPTY, encoding="utf-8")
    return path


@pytest.mark.parametrize(("path", "parts"), documents(), ids=lambda value: str(value)[-30:])
def test_generated_parts_are_up_to_date(path: Path, parts: dict[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == with_parts(path, parts), "run python docs/update_readme.py"


def test_parts_stand_between_their_markers_and_nothing_else_changes(page: Path) -> None:
    text = with_parts(page, PARTS)
    for settings, prefix in TABLES.values():
        for field in fields(settings):
            assert f"| `{prefix}{field.name.upper()}` |" in text
    for name, part in PARTS.items():
        assert f"<!-- {name} -->\n{part}<!-- /{name} -->\nafter\n" in text
        text = text.replace(part, "")
    assert text == EMPTY


def test_stale_parts_are_replaced(page: Path) -> None:
    text = with_parts(page, PARTS)
    page.write_text(text.replace("| `GENERATOR_LISTEN` |", "| `GENERATOR_PORT` |"), "utf-8")
    assert with_parts(page, PARTS) == text


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
def test_missing_or_doubled_markers_are_named(page: Path, text: str) -> None:
    page.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.md: must hold <!-- settings:"):
        with_parts(page, PARTS)


@pytest.mark.parametrize("module", [common_pb2, generator_pb2, profile_pb2, reward_pb2])
def test_every_part_of_the_contract_is_in_the_reference(module: object) -> None:
    sections = {
        part.partition("\n")[0]: part for part in api_reference().split("\n### ") if part.strip()
    }
    file = module.DESCRIPTOR  # type: ignore[attr-defined]
    for name, message in file.message_types_by_name.items():
        for field in message.fields:
            assert f"| {field.number} | `{field.name}` |" in sections[name], f"{name}.{field.name}"
    for name, enum in file.enum_types_by_name.items():
        for value in enum.values:
            assert f"| {value.number} | `{value.name}` |" in sections[name], value.name
    for name, service in file.services_by_name.items():
        for method in service.methods:
            assert f"| `{method.name}` | " in sections[name], f"{name}.{method.name}"


def test_a_field_without_a_comment_is_named(tmp_path: Path) -> None:
    copied = shutil.copytree(PROTOS, tmp_path / "protos")
    proto = copied / "pad/v1/common.proto"
    lines = proto.read_text().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if "string role = 1;" in line)
    proto.write_text("".join(lines[: at - 1] + lines[at:]))
    with pytest.raises(ValueError, match=r"ChatMessage\.role must have a comment"):
        api_reference(copied)


def test_every_command_is_in_the_reference() -> None:
    text = command_reference()
    for command in ("generate", "info", "up", "demo", "train", "evaluate", "profile put"):
        assert f"# `pad {command}`\n" in text
    assert "* `edit`: Change a profile in $VISUAL or $EDITOR, or create one.\n" in text
    assert "...\n" not in text  # nothing is cut off
    assert "* `-h, --help`: " in text
    assert "```" not in text  # a synopsis is no command to run
