"""A round of cases against every method, and what must hold when it is over."""

import asyncio
import time
import urllib.request
from collections.abc import Iterator

from pad_client.embedded import EmbeddedStack
from tests.fuzz.cases import Case, make_case
from tests.fuzz.methods import all_methods
from tests.fuzz.probes import assert_same, fingerprint, is_idle, probe
from tests.fuzz.runner import Report, run_cases
from tests.fuzz.tiny_stack import SERVICES, complaints

IDLE_S = 60.0
# Calls of each method in a round. Those of a stream have about twelve messages each.
NUM_CALLS = {
    "Generate": 1000,
    "Complete": 1000,
    "ScoreSequences": 1000,
    "Score": 800,
    "ServerReflectionInfo": 100,
    "Check": 200,
    "List": 100,
    "Watch": 200,
}
OTHERS = 600


def round_of_cases(seed: int, service: str, tokenizer_fingerprint: str) -> Iterator[Case]:
    """Yield the cases of a round at one service, all methods side by side."""
    methods = [method for method in all_methods() if method.service == service]
    counts = [NUM_CALLS.get(method.path.rpartition("/")[2], OTHERS) for method in methods]
    for index in range(max(counts)):
        for method, count in zip(methods, counts, strict=True):
            if index < count:
                yield make_case(method, seed, index, tokenizer_fingerprint)


def run_round(stack: EmbeddedStack, seed: int) -> Report:
    """Make the calls of a round; fail where anything was found."""
    before = probe(stack)
    starts: dict[str, int] = {}
    complaints(stack, starts)
    report = Report()
    for service in SERVICES:
        addresses = {service: stack.addresses[service]}
        cases = round_of_cases(seed, service, fingerprint(stack))
        asyncio.run(run_cases(cases, addresses, report))
    assert not report.findings, "\n".join(report.findings[:20])
    check_unharmed(stack, starts)
    assert_same(before, probe(stack))
    return report


def check_unharmed(stack: EmbeddedStack, starts: dict[str, int]) -> None:
    """Fail unless both processes live, are idle again, and neither failed nor complained."""
    assert stack.check() == []
    wait_until_idle(stack)
    found = failures(stack) + complaints(stack, starts)
    assert not found, "\n".join(found[:10])


def wait_until_idle(stack: EmbeddedStack) -> None:
    """Return when no session is left; what callers left is cleared up within a step."""
    give_up_at = time.monotonic() + IDLE_S
    while not is_idle(stack) or _num_active(stack) != 0:  # each look is a round trip
        assert time.monotonic() < give_up_at, "sessions are left"


def failures(stack: EmbeddedStack) -> list[str]:
    """Return the lines of both services' metrics that count RPCs which failed by a bug."""
    lines = [line for name in SERVICES for line in scrape(stack, name)]
    return [line for line in lines if 'code="INTERNAL"' in line or 'code="UNKNOWN"' in line]


def scrape(stack: EmbeddedStack, service: str) -> list[str]:
    """Return the lines of a service's metrics."""
    url = f"http://{stack.metrics_addresses[service]}/metrics"
    with urllib.request.urlopen(url, timeout=60) as response:
        lines: list[str] = response.read().decode().splitlines()
        return lines


def _num_active(stack: EmbeddedStack) -> float:
    series = 'pad_sessions{state="'
    lines = [line for line in scrape(stack, "generator") if line.startswith(series)]
    assert lines, "no such series"
    return sum(float(line.split()[-1]) for line in lines)
