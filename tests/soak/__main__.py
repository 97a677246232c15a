"""The soak: many calls that end badly, then rounds of fuzzing for as long as is asked.

`python -m tests.soak --minutes 10 --seed 1`; ends with 1 if anything was found.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from pad_client.embedded import EmbeddedStack
from tests.fuzz.campaign import check_unharmed, run_round
from tests.fuzz.probes import assert_same, probe
from tests.fuzz.tiny_stack import SERVICES, complaints, tiny_stack
from tests.soak.leaks import Growth, measure, report_line, settled_uses

# Memory is flat from about 6,000 expired calls on (402, 421, 427, 427, 427, 428 MiB by 3,000).
NUM_WARM = {"cancelled": 6000, "expired": 6000, "broken": 600}
NUM_CALLS = {"cancelled": 10_000, "expired": 10_000, "broken": 1000}
MAX_GROWTH = 0.02
MAX_TIMES = 3


def leak(stack: EmbeddedStack, out: Path | None) -> list[str]:
    """Make the calls of each kind and return what is wrong.

    Memory goes up and down by more than 2 % with what the allocator keeps, so calls are a leak
    where it grows by more than that each time they are made.
    """
    found = []
    for kind, total in NUM_CALLS.items():
        before, starts = probe(stack), dict.fromkeys(SERVICES, 0)
        complaints(stack, starts)
        leaking: list[Growth] = []
        for i in range(MAX_TIMES):
            leaking = _leaks(measure(stack, kind, 0 if i else NUM_WARM[kind], total), out)
            if not leaking:
                break
        found += map(str, leaking)
        check_unharmed(stack, starts)
        assert_same(before, probe(stack))
    return found


def _leaks(growths: list[Growth], out: Path | None) -> list[Growth]:
    for growth in growths:
        report_line(out, str(growth))
    return [
        growth
        for growth in growths
        if growth.share >= MAX_GROWTH or growth.after.num_files > growth.before.num_files
    ]


def fuzz(stack: EmbeddedStack, minutes: float, seed: int, out: Path | None) -> None:
    """Run rounds of fuzzing, each with a seed of its own, until the time is over."""
    give_up_at = time.monotonic() + 60 * minutes
    while time.monotonic() < give_up_at:
        report = run_round(stack, seed)
        uses = settled_uses(stack, {})
        memory = ", ".join(f"{name} {use.rss_mib:.1f} MiB" for name, use in uses.items())
        report_line(out, f"seed {seed}: {report.num_messages} messages, {memory}")
        seed += 1


def main() -> int:
    """Run both; return 1 if anything leaked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of fuzzing")
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--out", type=Path, help="a file to append the figures to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tiny_stack(Path(folder)) as stack:
        leaks = leak(stack, options.out)
        fuzz(stack, options.minutes, options.seed, options.out)
    for line in leaks:
        report_line(options.out, f"leak: {line}")
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
