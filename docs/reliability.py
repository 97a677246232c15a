"""What is promised, what tests it, and what was measured last: reliability.json, reliability.md.

    python docs/reliability.py                                   writes reliability.md again
    python docs/reliability.py ROW "FIGURE" --command "COMMAND"  notes a figure, and does that too

From Python: `docs.reliability.record(row, figure, command)`. A new promise is an object with `row`,
`promise` and `test` in reliability.json.
"""

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
REGISTRY = FOLDER / "reliability.json"
PAGE = FOLDER / "reliability.md"
NOTHING = "not measured yet"
HEAD = """# Reliability

What PAD serving promises, the test that fails when a promise is broken, and what was measured last.
`docs/reliability.py` writes this page from `reliability.json`, where `make faults` and the other
harnesses note their figures.

| promise | test | last figure | when, at which commit, by what |
| --- | --- | --- | --- |
"""


def load() -> list[dict[str, Any]]:
    """Return the rows of the registry."""
    rows: list[dict[str, Any]] = json.loads(REGISTRY.read_text(encoding="utf-8"))
    return rows


def record(row: str, figure: str, command: str) -> None:
    """Note what was measured for a promise, with today's date and this commit, and write the page.

    Raises:
        ValueError: the registry has no such row.
    """
    rows = load()
    found = [entry for entry in rows if entry["row"] == row]
    if not found:
        names = ", ".join(entry["row"] for entry in rows)
        raise ValueError(f"row: must be one of {names}, got {row!r}")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    found[0] |= {"figure": figure, "date": today, "commit": _commit(), "command": command}
    text = json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    REGISTRY.write_text(text, encoding="utf-8")
    PAGE.write_text(page(rows), encoding="utf-8")


def page(rows: list[dict[str, Any]]) -> str:
    """Return the page."""
    return HEAD + "".join(_line(row) for row in rows)


def _line(row: dict[str, Any]) -> str:
    tests = "<br>".join(f"`{test}`" for test in row["test"]) or "none yet"
    source = ""
    if "figure" in row:
        source = f"{row['date']}, {row['commit']}, `{row['command']}`"
    cells = (row["promise"], tests, row.get("figure", NOTHING), source)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    result = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def main() -> int:
    """Return the exit status: 2 where the registry has no such row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", nargs="?", help="which promise")
    parser.add_argument("figure", nargs="?", default="", help="what was measured, with its unit")
    parser.add_argument("--command", default="", help="what measured it")
    options = parser.parse_args()
    if options.row is None:
        PAGE.write_text(page(load()), encoding="utf-8")
        return 0
    try:
        record(options.row, options.figure, options.command)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
