"""Answers that no sound replica gives, for tests of those who read them."""

import numpy as np

from pad.v1 import reward_pb2
from reward_svc.messages import UINT32

_NUMBERS = {"step": "steps", "epoch": "epochs", "session": "sessions"}


def garble(message: reward_pb2.ScoreResponse, detail: str) -> reward_pb2.ScoreResponse | None:
    """Return a copy whose rewards are garbage, None if it has no rewards.

    Args:
        message: stays as it is.
        detail: `nan`, `short` (one reward is missing), `empty` (all are), or which numbers are
            another row's: `step`, `epoch`, `session`.
    """
    if not message.rewards.rewards:
        return None
    spoilt = reward_pb2.ScoreResponse()
    spoilt.CopyFrom(message)
    rows = spoilt.rewards
    if detail == "nan":
        rows.rewards = np.full(len(rows.rewards) // 4, np.nan, "<f4").tobytes()
    elif detail == "short":
        rows.rewards = rows.rewards[:-4]
    elif detail == "empty":
        spoilt.ClearField("rewards")
    else:
        name = _NUMBERS[detail]
        numbers = np.frombuffer(getattr(rows, name), UINT32) + np.uint32(1)
        setattr(rows, name, numbers.astype(UINT32).tobytes())
    return spoilt
