"""End a worker with the launcher that started it, however that ends."""

import ctypes
import os
import signal
import sys

from training.failures import LAUNCHER_VARIABLE

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Let the kernel kill this process with its parent, where `training.launch` is the parent.

    Without it the workers would go on after a `kill -9` of the launcher. Linux alone can do so.
    """
    launcher = os.environ.get(LAUNCHER_VARIABLE)
    if launcher is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(launcher):  # it ended before
        sys.exit(1)
