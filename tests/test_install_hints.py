"""What texts tell people to install can be installed: the packages are not on an index yet."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("client", "docs", "edge_svc", "evaluation", "examples", "generator_svc")
FOLDERS += ("playground_svc", "reward_svc", "svc_common", "training", "README.md")
HINT = re.compile(r"pip install ['\"]?pad-(serving|client)")


def test_nobody_is_sent_to_an_index_for_them() -> None:
    found = []
    for folder in FOLDERS:
        path = ROOT / folder
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.suffix in {".py", ".md", ".html", ".ipynb"} and HINT.search(file.read_text()):
                found.append(str(file.relative_to(ROOT)))
    assert found == []
