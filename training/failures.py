"""What the processes of one run leave to tell why they failed, so that it is told once.

The end of one process makes the others fail as well, in the midst of what they exchange. So a
process that the launcher started writes its message to a file, and the launcher shows that of the
process that failed first.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

FOLDER_VARIABLE = "PAD_TRAINING_FAILURES"
LAUNCHER_VARIABLE = "PAD_TRAINING_LAUNCHER"  # its process number
_CAUSE, _MAYBE_CONSEQUENCE = "0", "1"


@dataclass(frozen=True)
class Failure:
    """What a process would have shown, and its exit status."""

    text: str
    status: int


def note_failure(failure: Failure, *, is_cause: bool) -> bool:
    """Leave `failure` for the launcher and return whether there is one.

    Args:
        is_cause: an error of the user's input, which no other process's failure can bring about.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return False
    kind = _CAUSE if is_cause else _MAYBE_CONSEQUENCE
    path = Path(folder) / f"{kind}-{time.time_ns()}-{os.getpid()}"
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(f"{failure.status}\n{failure.text}", encoding="utf-8")
    unfinished.replace(path)
    return True


def first_failure(folder: Path) -> Failure | None:
    """Return the failure of the process that failed first; None if no process left one."""
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not found:
        return None
    status, _, text = found[0].read_text(encoding="utf-8").partition("\n")
    return Failure(text, int(status))
