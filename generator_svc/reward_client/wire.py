"""Between the engine's values and the messages of reward.proto."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generator_svc.decoding.strategies import Reference
from generator_svc.engine.scorer import RewardContext
from pad.v1 import common_pb2, reward_pb2

REFERENCES = {
    Reference.BACKBONE: common_pb2.REFERENCE_MODE_BACKBONE,
    Reference.BASE: common_pb2.REFERENCE_MODE_BASE,
}


def pack_ids(ids: list[int]) -> bytes:
    """Return ids as little-endian uint32."""
    return np.asarray(ids, dtype="<u4").tobytes()


def unpack_ids(data: bytes) -> list[int]:
    """Return what `pack_ids` packed."""
    ids: list[int] = np.frombuffer(data, dtype="<u4").tolist()
    return ids


def pack_context(context: RewardContext, model_version: str) -> reward_pb2.RewardContext:
    """Return the message that says to a replica what rewards are about.

    While replicas change to another model, an encoding by one version would make the other
    compute something else, in silence: that one goes without.
    """
    message = reward_pb2.RewardContext(reference=REFERENCES[context.reference])
    if isinstance(context.prompt, str):
        message.prompt = context.prompt
    else:
        for turn in context.prompt:
            message.chat.messages.add(role=turn.role, content=turn.content)
    for preference in context.preferences:
        is_fitting = preference.encoding_version == model_version
        message.preferences.add(
            preference=common_pb2.Preference(text=preference.text, weight=preference.weight),
            encoding=preference.encoding if is_fitting else b"",
        )
    return message


def pack_commits(rows: list[tuple[int, int, int, int]]) -> reward_pb2.CommitRows:
    """Return commit rows from (session, epoch, step, token id)."""
    sessions, epochs, steps, token_ids = (
        pack_ids(list(column)) for column in zip(*rows, strict=True)
    )
    return reward_pb2.CommitRows(sessions=sessions, epochs=epochs, steps=steps, token_ids=token_ids)


def pack_candidates(
    rows: list[tuple[int, int, int]], candidate_ids: list[Tensor]
) -> reward_pb2.CandidateRows:
    """Return candidate rows from (session, epoch, step) and ids `[K]` of each."""
    sessions, epochs, steps = (pack_ids(list(column)) for column in zip(*rows, strict=True))
    return reward_pb2.CandidateRows(
        sessions=sessions,
        epochs=epochs,
        steps=steps,
        num_candidates=pack_ids([ids.shape[0] for ids in candidate_ids]),
        candidate_ids=torch.cat(candidate_ids).numpy().astype("<u4").tobytes(),
    )


RewardKey = tuple[int, int, int]
"""(session, epoch, step): which row a reward belongs to."""


def unpack_rewards(rows: reward_pb2.RewardRows) -> dict[RewardKey, NDArray[np.float32]]:
    """Return the rewards `[K]` of each row.

    Raises:
        ValueError: the arrays do not fit each other.
    """
    keys = list(
        zip(unpack_ids(rows.sessions), unpack_ids(rows.epochs), unpack_ids(rows.steps), strict=True)
    )
    ends = np.cumsum(unpack_ids(rows.num_candidates), dtype=np.int64)
    rewards = np.frombuffer(rows.rewards, dtype="<f4")
    if len(ends) != len(keys) or (len(ends) and ends[-1] != len(rewards)):
        raise ValueError(f"rewards: {len(rewards)} values do not fit {len(keys)} rows")
    if not np.isfinite(rewards).all():
        raise ValueError("rewards: must be finite")
    return dict(zip(keys, np.split(rewards, ends[:-1]), strict=True)) if keys else {}
