"""Settings, metrics, files and targets that a page names in passing are there."""

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from docs.metric_tables import metric_tables
from tests.deploy.test_prometheus import metric_labels
from tests.docs.blocks import ROOT, pages
from tests.docs.elsewhere import SETTINGS

CODE = re.compile(r"`([^`\n]+)`")
SETTING = re.compile(r"\b(?:GENERATOR|REWARD|EDGE|PLAYGROUND)_[A-Z][A-Z0-9_]*\b(?!\*)")
METRIC = re.compile(r"pad[_:](?!v1:)[a-z_:0-9]+")  # keys of Redis begin with pad:v1:
FILE = re.compile(r"[\w./-]+\.(?:py|proto|lua|toml|yml|yaml|json|md|sh|html)")
# Names that begin as a metric does.
OTHERS = {"pad_client", "pad_config", "pad_serving"}
# Values that begin as a setting does: of enums in the protos.
ENUMS = re.compile(r"[A-Z]+_(MODE|MODEL)_(BASE|BACKBONE|UNSPECIFIED)")
# Files that other programs write, or that a reader makes.
MADE = re.compile(r"(config|adapter_config|pad_config|metrics|evaluation|all)\.json|.*-out/.*")


def known_settings() -> set[str]:
    return {
        prefix + field.name.upper() for cls, prefix in SETTINGS.values() for field in fields(cls)
    }


def known_metrics() -> set[str]:
    """Return the names of series, also recorded ones, and of what docs/metrics.md lists."""
    tables = "".join(metric_tables().values())
    return {*metric_labels(), *re.findall(r"^\| `(\w+)`", tables, re.MULTILINE)}


def known_files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [f"/{name}" for name in listed.stdout.splitlines()]


def is_among(files: list[str], code: str) -> bool:
    """Return whether a file is named, by its path or the end of it."""
    return any(name.endswith(f"/{code.removeprefix('./')}") for name in files)


def code_of(path: Path) -> list[str]:
    """Return the pieces of code in a page's sentences and tables."""
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return CODE.findall(text)


PAGES = [path for path in pages() if path.name != "decisions.md"]  # which tells of what is gone


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    settings, metrics, files = known_settings(), known_metrics(), known_files()
    unknown = []
    for code in code_of(page):
        named = (name for name in SETTING.findall(code) if not ENUMS.fullmatch(name))
        unknown += [name for name in named if name not in settings]
        if (match := METRIC.match(code)) and match[0] not in metrics | OTHERS:
            unknown.append(match[0])
        if FILE.fullmatch(code) and not MADE.fullmatch(code) and not is_among(files, code):
            unknown.append(code)
    assert not unknown
