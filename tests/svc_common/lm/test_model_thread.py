"""The model's thread is one among the process's, and not the first."""

import os
import sys

import pytest

from svc_common.lm.model_thread import NICENESS, ModelThread


def own_niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)  # on Linux, of the thread that asks


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a rank of their own on Linux")
async def test_the_model_thread_gives_way_to_the_others() -> None:
    before = own_niceness()
    thread = ModelThread(1)
    try:
        assert await thread.run(own_niceness) == min(before + NICENESS, 19)
        assert own_niceness() == before
    finally:
        thread.close()
