"""Messages of the Score stream to the service's own types and back, checked on the way in."""

import time
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pad.v1 import reward_pb2
from reward_svc.messages import (
    Answer,
    CandidateBatch,
    CandidateRow,
    Commit,
    Load,
    Opened,
    RowFault,
    ScoredRow,
)
from svc_common.errors import InvalidRequestError

MAX_CANDIDATES = 1024
UINT32, FLOAT32 = np.dtype("<u4"), np.dtype("<f4")


def numbers(field: str, data: bytes, count: int | None = None) -> NDArray[np.uint32]:
    """Return an array field of `count` numbers (any, if None).

    Raises:
        InvalidRequestError: The length is wrong.
    """
    if len(data) % UINT32.itemsize:
        raise InvalidRequestError(f"{field}: must hold 4 bytes a number, got {len(data)} bytes")
    values = np.frombuffer(data, UINT32)
    if count is not None and len(values) != count:
        raise InvalidRequestError(f"{field}: must hold {count} numbers, got {len(values)}")
    return values


def token_ids(field: str, data: bytes, vocabulary_size: int) -> tuple[int, ...]:
    """Return token ids.

    Raises:
        InvalidRequestError: The length is wrong, or an id is not of the vocabulary.
    """
    ids = numbers(field, data)
    if len(ids) and int(ids.max()) >= vocabulary_size:
        raise InvalidRequestError(_outside(field, vocabulary_size, int(ids.max())))
    return tuple(ids.tolist())


def commits(message: reward_pb2.CommitRows) -> tuple[Commit, ...]:
    """Return the rows of a CommitRows.

    Raises:
        InvalidRequestError: An array has another length than the first.
    """
    sessions = numbers("commits.sessions", message.sessions)
    columns = [sessions] + [
        numbers(f"commits.{field}", data, len(sessions))
        for field, data in (
            ("epochs", message.epochs),
            ("steps", message.steps),
            ("token_ids", message.token_ids),
        )
    ]
    return tuple(Commit(*row) for row in zip(*(column.tolist() for column in columns), strict=True))


def candidates(
    message: reward_pb2.CandidateRows, batch_id: int, vocabulary_size: int
) -> CandidateBatch:
    """Return the rows of a CandidateRows; a row that cannot be scored says why.

    Raises:
        InvalidRequestError: The lengths of the arrays do not fit together.
    """
    arrived = time.perf_counter()
    sessions = numbers("candidates.sessions", message.sessions)
    epochs = numbers("candidates.epochs", message.epochs, len(sessions))
    steps = numbers("candidates.steps", message.steps, len(sessions))
    counts = numbers("candidates.num_candidates", message.num_candidates, len(sessions)).tolist()
    ids = numbers("candidates.candidate_ids", message.candidate_ids, sum(counts))
    is_inside = not len(ids) or int(ids.max()) < vocabulary_size
    rows, start = [], 0
    columns = (sessions.tolist(), epochs.tolist(), steps.tolist(), counts)
    for session, epoch, step, count in zip(*columns, strict=True):
        row_ids = ids[start : start + count]
        start += count
        refusal = ""
        if not 1 <= count <= MAX_CANDIDATES:
            refusal = f"num_candidates: must be 1..{MAX_CANDIDATES}, got {count}"
        elif not is_inside and int(row_ids.max()) >= vocabulary_size:
            refusal = _outside("candidate_ids", vocabulary_size, int(row_ids.max()))
        rows.append(CandidateRow(session, epoch, step, row_ids, refusal))
    return CandidateBatch(batch_id, tuple(rows), arrived)


def _outside(field: str, vocabulary_size: int, got: int) -> str:
    return f"{field}: must be 0..{vocabulary_size - 1}, got {got}"


def response(answer: Answer, load: Load) -> reward_pb2.ScoreResponse:
    """Return the ScoreResponse of an answer."""
    return reward_pb2.ScoreResponse(
        batch_id=answer.batch_id,
        opened=[_opened(opened) for opened in answer.opened],
        rewards=None if answer.scored is None else _reward_rows(answer.scored),
        row_errors=[_row_error(fault) for fault in answer.faults],
        timings=reward_pb2.StepTimings(**vars(answer.timings)),
        load=load_message(load),
    )


def load_message(load: Load) -> reward_pb2.Load:
    return reward_pb2.Load(num_free_slots=load.num_free_slots, num_sessions=load.num_sessions)


def _opened(opened: Opened) -> reward_pb2.SessionOpened:
    return reward_pb2.SessionOpened(**vars(opened))


def _row_error(fault: RowFault) -> reward_pb2.RowError:
    return reward_pb2.RowError(
        session=fault.session,
        epoch=fault.epoch,
        step=fault.step,
        reason=reward_pb2.RowErrorReason.ValueType(fault.reason.value),
        message=fault.message,
    )


def _reward_rows(rows: Sequence[ScoredRow]) -> reward_pb2.RewardRows:
    return reward_pb2.RewardRows(
        sessions=pack(row.session for row in rows),
        epochs=pack(row.epoch for row in rows),
        steps=pack(row.step for row in rows),
        num_candidates=pack(len(row.rewards) for row in rows),
        rewards=b"".join(row.rewards.astype(FLOAT32, copy=False).tobytes() for row in rows),
    )


def pack(values: Iterable[int]) -> bytes:
    """Return numbers as an array field."""
    return np.fromiter(values, UINT32).tobytes()
