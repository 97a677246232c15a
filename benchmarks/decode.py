"""Tokens per second of plain and of guided decoding on the demo models, measured in turn.

Both services run as real processes, generator and reward on one core each (two cores or more).
Contenders are interleaved, so that a drift of the machine meets all of them; ratios are taken
within a round. `--log` appends the result to benchmarks/LOG.md.
"""

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pad_client import GeneratorClient, Message
from pad_client.embedded import EmbeddedStack, StackOptions

CONTENDERS = ("base", "pad-released", "pad")
PROMPT = "I need a table for two people in San Jose tonight, somewhere quiet."
PREFERENCE = "Be friendly and chat with me a little."
LOG = Path(__file__).parent / "LOG.md"


@dataclass(frozen=True)
class Figure:
    """One contender at one batch size: median tokens/s, its spread, and time against plain."""

    strategy: str
    batch_size: int
    tokens_per_s: float
    slowest: float
    fastest: float
    time_ratio: float


def measure(client: GeneratorClient, strategy: str, batch_size: int, num_tokens: int) -> float:
    """Return tokens/s of `batch_size` answers written at once."""

    def write(seed: int) -> int:
        answer = client.complete(
            messages=[Message("user", f"{PROMPT} Number {seed}.")],
            strategy=strategy,
            max_tokens=num_tokens,
            preferences=[] if strategy == "base" else [PREFERENCE],
            beta=1.0,
            ignore_end_of_turn=True,
        )
        return len(answer.tokens)

    with ThreadPoolExecutor(batch_size) as pool:
        start = time.perf_counter()
        written = sum(pool.map(write, range(batch_size)))
        return written / (time.perf_counter() - start)


def run(batch_sizes: list[int], num_rounds: int, num_tokens: int) -> list[Figure]:
    """Measure all contenders at all batch sizes, one warm-up round not counted."""
    cores = sorted(os.sched_getaffinity(0))
    cpus = {"generator": [cores[0]], "reward-0": [cores[-1]]}
    figures = []
    with (
        EmbeddedStack(StackOptions(cpus=cpus)) as stack,
        GeneratorClient(stack.address) as client,
    ):
        for batch_size in batch_sizes:
            rounds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
            for number in range(num_rounds + 1):
                for name in CONTENDERS:
                    tokens_per_s = measure(client, name, batch_size, num_tokens)
                    if number:
                        rounds[name].append(tokens_per_s)
                sys.stderr.write(f"B={batch_size}: round {number} of {num_rounds}\n")
            figures += [
                Figure(
                    strategy=name,
                    batch_size=batch_size,
                    tokens_per_s=statistics.median(rounds[name]),
                    slowest=min(rounds[name]),
                    fastest=max(rounds[name]),
                    time_ratio=statistics.median(
                        plain / own for plain, own in zip(rounds["base"], rounds[name], strict=True)
                    ),
                )
                for name in CONTENDERS
            ]
    return figures


def table(figures: list[Figure]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| strategy | answers at once | tokens/s (min .. max) | time / plain |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {f.strategy} | {f.batch_size} | {f.tokens_per_s:.0f}"
        f" ({f.slowest:.0f} .. {f.fastest:.0f}) | {f.time_ratio:.2f} |"
        for f in figures
    ]
    return "\n".join(lines)


def log_entry(arguments: argparse.Namespace, figures: list[Figure]) -> str:
    """Return a dated entry with everything needed to repeat the run."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    batches = " ".join(str(size) for size in arguments.batch_sizes)
    return (
        f"\n## {datetime.datetime.now(datetime.UTC):%Y-%m-%d}: plain and guided decoding\n\n"
        f"- models: bundled demo pair, float32\n"
        f"- hardware: {platform.machine()}, {os.cpu_count()} cores, generator and reward on one"
        f" each, one torch thread each; load client unpinned on the same machine\n"
        f"- command: `python -m benchmarks.decode --batch-sizes {batches}"
        f" --rounds {arguments.rounds} --tokens {arguments.tokens}`\n"
        f"- commit: {commit}\n\n{table(figures)}\n"
    )


def main() -> None:
    """Measure, print, and append to the log if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--log", action="store_true", help="append to benchmarks/LOG.md")
    arguments = parser.parse_args()
    figures = run(arguments.batch_sizes, arguments.rounds, arguments.tokens)
    sys.stdout.write(table(figures) + "\n")
    if arguments.log:
        with LOG.open("a") as log:
            log.write(log_entry(arguments, figures))


if __name__ == "__main__":
    main()
