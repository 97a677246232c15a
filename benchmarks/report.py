"""What a suite found: bars with their verdicts, tables, JSON, and the entry for the log."""

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.rounds import Result, ratios, spread

HERE = Path(__file__).parent
LOG = HERE / "LOG.md"
_DIGITS = {"step_ms": 2, "tokens_per_s": 0, "first_token_ms": 0}


@dataclass(frozen=True)
class Bar:
    """What was wanted of a figure, and what it is: one value a round."""

    name: str
    limit: float
    values: tuple[float, ...]
    is_upper: bool = True  # the figure must not be above the limit; else not below

    @property
    def measured(self) -> float:
        return spread(self.values).median

    @property
    def is_reached(self) -> bool:
        return self.measured <= self.limit if self.is_upper else self.measured >= self.limit

    @property
    def wanted(self) -> str:
        return f"{'<=' if self.is_upper else '>='} {self.limit:g}"


def ratio_bar(
    name: str,
    limit: float,
    own: Result | None,
    other: Result | None,
    quantity: str = "step_ms",
    *,
    is_upper: bool = True,
) -> list[Bar]:
    """Return the bar on `own / other`, round by round; none if one of them was not measured."""
    if own is None or other is None:
        return []
    values = ratios(own.values(quantity), other.values(quantity))
    return [Bar(name, limit, tuple(values), is_upper)]


def value_bar(
    name: str, limit: float, result: Result | None, quantity: str, *, is_upper: bool = True
) -> list[Bar]:
    """Return the bar on a quantity itself; none if it was not measured."""
    if result is None:
        return []
    return [Bar(name, limit, tuple(result.values(quantity)), is_upper)]


@dataclass
class Report:
    """Everything one suite found."""

    suite: str
    notes: list[str] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)

    def find(self, contender: str, model: str, batch: int, prompt: int) -> Result | None:
        """Return what a contender gave in a cell, if it was measured there."""
        for result in self.results:
            cell = result.cell
            if result.contender == contender and (cell.model, cell.batch, cell.prompt) == (
                model,
                batch,
                prompt,
            ):
                return result
        return None

    def markdown(self) -> str:
        """Return bars and results as Markdown."""
        parts = [*(f"- {note}\n" for note in self.notes), "\n" if self.notes else ""]
        if self.bars:
            parts += [bar_table(self.bars), "\n"]
        parts += [result_table(self.results)]
        return "".join(parts)

    def to_json(self, command: str) -> dict[str, object]:
        """Return everything measured, round by round."""
        return {
            "suite": self.suite,
            **conditions(command),
            "notes": self.notes,
            "bars": [
                {
                    "name": bar.name,
                    "wanted": bar.wanted,
                    "measured": bar.measured,
                    "values": list(bar.values),
                    "reached": bar.is_reached,
                }
                for bar in self.bars
            ],
            "results": [
                {
                    **vars(result.cell),
                    "contender": result.contender,
                    **{name: result.values(name) for name in result.quantities},
                }
                for result in self.results
            ],
        }

    def save(self, command: str, folder: Path) -> Path:
        """Write the JSON file and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{today()}-{self.suite}.json"
        text = json.dumps(self.to_json(command), indent=1) + "\n"
        path.write_text(text, encoding="utf-8")
        return path


def bar_table(bars: Sequence[Bar]) -> str:
    """Return what was wanted, measured and reached as a Markdown table."""
    lines = ["| bar | wanted | measured (min .. max) | reached |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {bar.name} | {bar.wanted} | {spread(bar.values).text(2)}"
        f" | {'yes' if bar.is_reached else 'no'} |"
        for bar in bars
    ]
    return "\n".join(lines) + "\n"


def result_table(results: Sequence[Result]) -> str:
    """Return medians and spreads as Markdown tables, one for each set of quantities."""
    tables = []
    kinds = dict.fromkeys(tuple(result.quantities) for result in results if result.samples)
    for names in kinds:
        lines = [
            "| model | B | prompt | contender | " + " | ".join(map(_heading, names)) + " |",
            "| --- " * (4 + len(names)) + "|",
        ]
        for result in results:
            if tuple(result.quantities) != names:
                continue
            figures = [spread(result.values(n)).text(_DIGITS.get(n, 2)) for n in names]
            cell = result.cell
            lines.append(
                f"| {cell.model} | {cell.batch} | {cell.prompt} | {result.contender} | "
                + " | ".join(figures)
                + " |"
            )
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)


def _heading(quantity: str) -> str:
    return quantity.replace("_per_s", "/s").replace("_", " ")


def today() -> str:
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"


def conditions(command: str) -> dict[str, object]:
    """Return what is needed to repeat a run."""
    return {"date": today(), "commit": commit(), "command": command, "hardware": hardware()}


def hardware() -> str:
    """Return the machine in words."""
    names = [
        line.split(":", 1)[1].strip()
        for line in _read(Path("/proc/cpuinfo")).splitlines()
        if line.startswith("model name")
    ]
    kind = names[0] if names else platform.machine()
    return f"{kind}, {os.cpu_count()} cores"


def commit() -> str:
    """Return the commit, with a + if the code has changed since."""
    words = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    found = subprocess.run(words, capture_output=True, text=True, check=False, cwd=HERE)
    return found.stdout.strip() or "unknown"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def log_entry(reports: Sequence[Report], command: str) -> str:
    """Return one dated entry with everything needed to repeat the run."""
    kind = " (quick)" if "--quick" in command else ""
    names = ", ".join(report.suite + kind for report in reports)
    lines = [
        f"\n## {today()}: {names}\n",
        f"- hardware: {hardware()}; generator and reward on one core each, one torch thread each;"
        " the load client unpinned on the same machine",
        f"- command: `{command}`",
        f"- commit: {commit()}",
    ]
    parts = [f"\n### {report.suite}\n\n{report.markdown()}" for report in reports]
    return "\n".join(lines) + "\n" + "".join(parts)


def show(report: Report) -> None:
    """Print a report."""
    sys.stdout.write(f"\n### {report.suite}\n\n{report.markdown()}\n")
    sys.stdout.flush()
