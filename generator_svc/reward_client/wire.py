"""Between the engine's values and the messages of reward.proto."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generator_svc.decoding.strategies import Reference
from generator_svc.engine.scorer import RewardContext, ScoredRows
from pad.v1 import common_pb2, reward_pb2
from svc_common.array_fields import pack, unpack
from svc_common.trace_context import TraceContext

_UINT32, _FLOAT32 = np.dtype("<u4"), np.dtype("<f4")
REFERENCES = {
    Reference.BACKBONE: common_pb2.REFERENCE_MODE_BACKBONE,
    Reference.BASE: common_pb2.REFERENCE_MODE_BASE,
}


def pack_context(
    context: RewardContext, model_version: str, reference: Reference
) -> reward_pb2.RewardContext:
    """Return the message that says to a replica what rewards are about.

    While replicas change to another model, an encoding by one version would make the other
    compute something else, in silence: each gets its own, or none.

    Args:
        context: what rewards are about.
        model_version: the replica's.
        reference: what the replica is to measure against; see `Replica.open`.
    """
    message = reward_pb2.RewardContext(reference=REFERENCES[reference], subject=context.subject)
    if isinstance(context.prompt, str):
        message.prompt = context.prompt
    else:
        for turn in context.prompt:
            message.chat.messages.add(role=turn.role, content=turn.content)
    for preference in context.preferences:
        message.preferences.add(
            preference=common_pb2.Preference(text=preference.text, weight=preference.weight),
            encoding=preference.encodings.get(model_version, b""),
        )
    return message


def pack_trace(trace: TraceContext | None) -> reward_pb2.TraceContext | None:
    """Return the message that says which trace a session is part of, if of any."""
    if trace is None:
        return None
    return reward_pb2.TraceContext(traceparent=trace.traceparent, tracestate=trace.tracestate)


CommitRow = tuple[int, int, int, int]
"""(session, epoch, step, token id)."""


def pack_commits(rows: list[CommitRow]) -> reward_pb2.CommitRows:
    """Return commit rows."""
    if not rows:
        return reward_pb2.CommitRows()
    sessions, epochs, steps, token_ids = map(pack, zip(*rows, strict=True))
    return reward_pb2.CommitRows(sessions=sessions, epochs=epochs, steps=steps, token_ids=token_ids)


@dataclass(frozen=True)
class CandidateBlock:
    """Candidates of B sessions.

    Attributes:
        token_ids: `[B, K]` int64.
        counts: how many of its K ids each row has, the first ones.
        guesses: what each session will probably choose; None: nobody guessed.
    """

    token_ids: Tensor
    counts: list[int]
    guesses: list[int | None] | None


def pack_candidates(
    rows: list[tuple[int, int, int]], candidates: CandidateBlock
) -> reward_pb2.CandidateRows:
    """Return candidate rows, of (session, epoch, step) each."""
    sessions, epochs, steps = map(pack, zip(*rows, strict=True))
    ids, counts = candidates.token_ids.numpy().astype(_UINT32), candidates.counts  # [B, K]
    if min(counts) < ids.shape[1]:
        ids = ids[np.arange(ids.shape[1]) < np.asarray(counts)[:, None]]
    return reward_pb2.CandidateRows(
        sessions=sessions,
        epochs=epochs,
        steps=steps,
        num_candidates=pack(counts),
        candidate_ids=ids.tobytes(),
    )


RewardKey = tuple[int, int, int]
"""(session, epoch, step): which row a reward belongs to."""


def unpack_rewards(
    asked: reward_pb2.CandidateRows, rows: reward_pb2.RewardRows, counts: list[int]
) -> ScoredRows:
    """Return the rewards of the rows that were asked for, and which of them came.

    Args:
        asked: what `pack_candidates` packed.
        rows: the answer.
        counts: candidates of each asked row.

    Raises:
        ValueError: the arrays do not fit each other, or a number is not finite.
    """
    rewards = _numbers("rewards", rows.rewards)
    width = max(counts)
    is_whole = _names(asked) == _names(rows)
    if is_whole and len(rewards) == width * len(counts) and min(counts) == width:
        # As in most steps: every row came, in the order it was asked.
        return ScoredRows(torch.from_numpy(rewards.reshape(-1, width).copy()), [True] * len(counts))
    by_key = _by_key(rows, rewards)
    result, came = torch.zeros(len(counts), width), [False] * len(counts)
    for i, (key, count) in enumerate(zip(_keys(asked), counts, strict=True)):
        found = by_key.get(key)
        if found is not None and len(found) == count:
            result[i, :count] = torch.from_numpy(found.copy())
            came[i] = True
    return ScoredRows(result, came)


def add_explanations(
    scored: ScoredRows,
    asked: reward_pb2.CandidateRows,
    rows: reward_pb2.RewardRows,
    expected: list[int],
) -> None:
    """Add what each preference alone gives to `scored`, which was unpacked from the same rows.

    Args:
        scored: is changed.
        asked: what `pack_candidates` packed.
        rows: the answer.
        expected: preferences of each asked row; 0 where nobody wants to know.

    Raises:
        ValueError: the arrays do not fit each other or what was asked, or a number is not finite.
    """
    values = _numbers("preference_rewards", rows.preference_rewards)
    keys, numbers = _keys(rows), unpack(rows.num_preferences)
    shapes = list(zip(numbers, unpack(rows.num_candidates), strict=False))
    sizes = [num * count for num, count in shapes]
    if not len(numbers) == len(shapes) == len(keys) or sum(sizes) != len(values):
        raise ValueError(f"preference_rewards: {len(values)} values do not fit {len(keys)} rows")
    parts = np.split(values, np.cumsum(sizes, dtype=np.int64)[:-1])
    found = {key: part.reshape(shape) for key, part, shape in zip(keys, parts, shapes, strict=True)}
    for i, key in enumerate(_keys(asked)):
        its = found.get(key)
        if not scored.has_rewards[i] or its is None:
            continue
        if len(its) != expected[i]:
            rule = f"must tell of {expected[i]} preferences"
            raise ValueError(f"num_preferences: {rule}, got {len(its)}")
        if len(its):
            scored.by_preference[i] = torch.from_numpy(its.copy())


def _numbers(field: str, data: bytes) -> NDArray[np.float32]:
    values = np.frombuffer(data, _FLOAT32)
    if not np.isfinite(values).all():
        raise ValueError(f"{field}: must be finite")
    return values


_Rows = reward_pb2.CandidateRows | reward_pb2.RewardRows


def _names(rows: _Rows) -> tuple[bytes, bytes, bytes, bytes]:
    return rows.sessions, rows.epochs, rows.steps, rows.num_candidates


def _keys(rows: _Rows) -> list[RewardKey]:
    columns = (unpack(data) for data in (rows.sessions, rows.epochs, rows.steps))
    return list(zip(*columns, strict=True))


def _by_key(
    rows: reward_pb2.RewardRows, rewards: NDArray[np.float32]
) -> dict[RewardKey, NDArray[np.float32]]:
    """Return the rewards `[K]` of each row."""
    keys = _keys(rows)
    ends = np.cumsum(unpack(rows.num_candidates), dtype=np.int64)
    if len(ends) != len(keys) or (len(ends) and ends[-1] != len(rewards)):
        raise ValueError(f"rewards: {len(rewards)} values do not fit {len(keys)} rows")
    return dict(zip(keys, np.split(rewards, ends[:-1]), strict=True)) if keys else {}
