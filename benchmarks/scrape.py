"""What a service says of itself: sums and counts of its Prometheus histograms."""

import re
import urllib.request
from collections.abc import Mapping

_LINE = re.compile(r"^(?P<name>\w+?)_(?P<kind>sum|count)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)$")
_PHASE = re.compile(r'phase="(\w+)"')
Totals = Mapping[str, tuple[float, float]]
"""(sum, count) by the phase of `pad_step_duration_seconds`, or by the name of another histogram."""


def read_totals(address: str) -> dict[str, tuple[float, float]]:
    """Return the totals of all histograms of the service whose metrics are at `host:port`."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/metrics", timeout=10) as page:
        return parse_totals(page.read().decode())


def parse_totals(text: str) -> dict[str, tuple[float, float]]:
    """Return the totals in a page of Prometheus's text format."""
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        phase = _PHASE.search(match["labels"] or "")
        name = phase[1] if phase else match["name"]
        found.setdefault(name, {})[match["kind"]] = float(match["value"])
    return {
        name: (parts["sum"], parts["count"])
        for name, parts in found.items()
        if parts.keys() == {"sum", "count"}
    }


def mean_ms_between(before: Totals, after: Totals, name: str) -> float | None:
    """Return the mean of what was observed between two readings; None if nothing was."""
    old_sum, old_count = before.get(name, (0.0, 0.0))
    new_sum, new_count = after.get(name, (0.0, 0.0))
    if new_count <= old_count:
        return None
    return 1e3 * (new_sum - old_sum) / (new_count - old_count)
