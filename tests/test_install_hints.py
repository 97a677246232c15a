"""What texts tell people to install can be installed: the packages are not on an index yet."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("client", "docs", "edge_svc", "evaluation", "examples", "generator_svc")
FOLDERS += ("playground_svc", "reward_svc", "svc_common", "training", "README.md")
HINT = re.compile(r"pip install ['\"]?pad-(serving|client)")


def files() -> Iterator[Path]:
    for folder in map(ROOT.joinpath, FOLDERS):
        for path in [folder] if folder.is_file() else folder.rglob("*"):
            if path.suffix in {".py", ".md", ".html", ".ipynb"}:
                yield path


def test_nobody_is_sent_to_an_index_for_them() -> None:
    assert [str(path) for path in files() if HINT.search(path.read_text(encoding="utf-8"))] == []
