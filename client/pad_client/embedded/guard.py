"""Outlives the stack's parent, however that dies, and then stops its children.

Run by path, with the standard library alone: `guard.py DIRECTORY GRACE_S`. Its standard input is a
pipe whose other end the parent alone keeps; the lines `+PID` and `-PID` say which children live.
The pipe ends with the parent, kill -9 included. Unlike PR_SET_PDEATHSIG this does not depend on
the life of the thread that started a child, and it also removes the directory.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable

_POLL_S = 0.02


def main(arguments: list[str]) -> None:
    """Wait for the end of the pipe, then stop what is left."""
    directory, grace_s = arguments[0], float(arguments[1])
    pids: set[int] = set()
    for line in sys.stdin:
        if line.startswith("+"):
            pids.add(int(line))
        else:
            pids.discard(-int(line))
    _signal(pids, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(_is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    _signal(pids, signal.SIGKILL)
    shutil.rmtree(directory, ignore_errors=True)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.killpg(pid, number)  # each child leads its own process group
        except ProcessLookupError:
            continue


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
