"""Generator, reward service and Redis of tiny models as real processes, and what they logged."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pad_client.embedded import EmbeddedStack, StackOptions
from tests.reward_svc.oracle import REFERENCE_SEED, THETA_SEED
from tests.tiny_model import save_tiny_model

SERVICES = ("generator", "reward-0")
CONTEXT_LENGTH = 256
NUM_SLOTS = 8  # of the generator
NUM_REWARD_ROWS = 48


@contextmanager
def tiny_stack(folder: Path) -> Iterator[EmbeddedStack]:
    """Run a stack whose models lie in `folder`; they are made where they are missing."""
    for name, seed in (("demo-base", REFERENCE_SEED), ("demo-persrm", THETA_SEED)):
        if not (folder / name).is_dir():
            save_tiny_model(folder / name, seed=seed)
    options = StackOptions(
        models_dir=folder,
        generator_environment={
            "GENERATOR_CONTEXT_LENGTH": str(CONTEXT_LENGTH),
            "GENERATOR_NUM_SLOTS": str(NUM_SLOTS),
        },
        reward_environment={
            "REWARD_CONTEXT_LENGTH": str(CONTEXT_LENGTH),
            "REWARD_NUM_SLOTS": str(NUM_REWARD_ROWS),
            "REWARD_VALUE_HEAD": "stage1",
        },
    )
    with EmbeddedStack(options) as stack:
        yield stack


def complaints(stack: EmbeddedStack, starts: dict[str, int] | None = None) -> list[str]:
    """Return what the services logged that tells of a bug: errors and tracebacks.

    Args:
        stack: whose logs are read.
        starts: bytes of each service's log that were looked at before; set to its end.
    """
    found = []
    for name in SERVICES:
        path = stack.directory / f"{name}.log"
        with path.open("rb") as log:
            log.seek(0 if starts is None else starts.get(name, 0))
            lines = log.read().decode(errors="replace").splitlines()
            if starts is not None:
                starts[name] = log.tell()
        found += [f"{name}: {line[:2000]}" for line in lines if _is_complaint(line)]
    return found


def _is_complaint(line: str) -> bool:
    try:
        event = json.loads(line)
    except ValueError:
        return "Traceback" in line
    return event.get("level") in ("error", "critical") or "Traceback" in line
