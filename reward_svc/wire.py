"""Messages of the Score stream to the service's own types and back, checked on the way in."""

import time

import numpy as np
from numpy.typing import NDArray

from pad.v1 import reward_pb2
from reward_svc.messages import (
    UINT32,
    Answer,
    CandidateRows,
    CommitRows,
    Load,
    Opened,
    RowFault,
)
from svc_common.array_fields import NUMBER_BYTES, unpack
from svc_common.errors import InvalidRequestError

MAX_CANDIDATES = 1024
# Rows or closings of one message. All of them are looked at in one go of the event loop, and a
# generator has at most half as many sessions.
MAX_ROWS = 1 << 11
MAX_OPENINGS = 64  # of one message: each takes a hundred times what a row takes, and ours has one


def count_numbers(field: str, data: bytes, wanted: int | None = None) -> int:
    """Return how many numbers an array field has.

    Raises:
        InvalidRequestError: There are not as many as `wanted` (any, if None).
    """
    count, left = divmod(len(data), NUMBER_BYTES)
    if left:
        raise InvalidRequestError(f"{field}: must hold 4 bytes a number, got {len(data)} bytes")
    if wanted is not None and count != wanted:
        raise InvalidRequestError(f"{field}: must hold {wanted} numbers, got {count}")
    return count


def numbers(field: str, data: bytes, count: int | None = None) -> NDArray[np.uint32]:
    """Return an array field of `count` numbers (any, if None).

    Raises:
        InvalidRequestError: The length is wrong.
    """
    count_numbers(field, data, count)
    return np.frombuffer(data, UINT32)


def check_rows(field: str, count: int, most: int = MAX_ROWS) -> None:
    """Refuse more rows than one message may have.

    Raises:
        InvalidRequestError: There are more.
    """
    if count > most:
        raise InvalidRequestError(f"{field}: must have at most {most} entries, got {count}")


def token_ids(field: str, data: bytes, vocabulary_size: int, most: int) -> tuple[int, ...]:
    """Return token ids, of which a context holds `most`.

    Raises:
        InvalidRequestError: The length is wrong, or an id is not of the vocabulary.
    """
    ids = numbers(field, data)
    if len(ids) > most:
        raise InvalidRequestError(f"{field}: must have at most {most} tokens, got {len(ids)}")
    if len(ids) and int(ids.max()) >= vocabulary_size:
        raise InvalidRequestError(_outside(field, vocabulary_size, int(ids.max())))
    return tuple(ids.tolist())


def commits(name: str, message: reward_pb2.CommitRows) -> CommitRows | None:
    """Return the rows of a CommitRows, the field `name`; None if there are none.

    Raises:
        InvalidRequestError: An array has another length than the first.
    """
    sessions, epochs = message.sessions, message.epochs
    if not (sessions or epochs or message.steps or message.token_ids):
        return None
    steps, ids = message.steps, message.token_ids
    count = count_numbers(f"{name}.sessions", sessions)
    check_rows(f"{name}.sessions", count)
    count_numbers(f"{name}.epochs", epochs, count)
    count_numbers(f"{name}.steps", steps, count)
    count_numbers(f"{name}.token_ids", ids, count)
    return CommitRows(sessions, epochs, unpack(steps), unpack(ids))


def candidates(
    message: reward_pb2.CandidateRows, batch_id: int, vocabulary_size: int
) -> CandidateRows:
    """Return the rows of a CandidateRows; a row that cannot be scored says why.

    Raises:
        InvalidRequestError: The lengths of the arrays do not fit together.
    """
    arrived = time.perf_counter()
    sessions, epochs, steps = message.sessions, message.epochs, message.steps
    count = count_numbers("candidates.sessions", sessions)
    check_rows("candidates.sessions", count)
    count_numbers("candidates.epochs", epochs, count)
    count_numbers("candidates.steps", steps, count)
    num_candidates = message.num_candidates
    count_numbers("candidates.num_candidates", num_candidates, count)
    counts = unpack(num_candidates)
    ids = numbers("candidates.candidate_ids", message.candidate_ids, sum(counts))
    refusals = {}
    is_inside = not len(ids) or int(ids.max()) < vocabulary_size
    if counts and not (is_inside and min(counts) >= 1 and max(counts) <= MAX_CANDIDATES):
        refusals = _refusals(counts, ids, vocabulary_size)
    return CandidateRows(
        batch_id, sessions, epochs, steps, num_candidates, counts, ids, arrived, refusals
    )


def _refusals(counts: list[int], ids: NDArray[np.uint32], vocabulary_size: int) -> dict[int, str]:
    """Return what is wrong with rows of candidates, by row."""
    refusals, start = {}, 0
    for i, count in enumerate(counts):
        row_ids = ids[start : start + count]
        start += count
        if not 1 <= count <= MAX_CANDIDATES:
            refusals[i] = f"num_candidates: must be 1..{MAX_CANDIDATES}, got {count}"
        elif int(row_ids.max()) >= vocabulary_size:
            refusals[i] = _outside("candidate_ids", vocabulary_size, int(row_ids.max()))
    return refusals


def _outside(field: str, vocabulary_size: int, got: int) -> str:
    return f"{field}: must be 0..{vocabulary_size - 1}, got {got}"


def response(answer: Answer, load: Load) -> reward_pb2.ScoreResponse:
    """Return the ScoreResponse of an answer."""
    message = reward_pb2.ScoreResponse(batch_id=answer.batch_id)
    # Filled in place: messages that are made first and then copied in cost twice as much.
    if answer.scored is not None:
        rows, scored = message.rewards, answer.scored
        rows.SetInParent()
        rows.sessions, rows.epochs, rows.steps = scored.sessions, scored.epochs, scored.steps
        rows.num_candidates, rows.rewards = scored.num_candidates, scored.rewards
        if scored.num_preferences:
            rows.num_preferences = scored.num_preferences
            rows.preference_rewards = scored.preference_rewards
    if answer.opened:
        message.opened.extend(_opened(opened) for opened in answer.opened)
    if answer.faults:
        message.row_errors.extend(_row_error(fault) for fault in answer.faults)
    timings, spent = message.timings, answer.timings
    timings.SetInParent()
    timings.queue_s, timings.forward_s = spent.queue_s, spent.forward_s
    timings.select_s = spent.select_s
    message.load.SetInParent()
    message.load.num_free_slots, message.load.num_sessions = load.num_free_slots, load.num_sessions
    return message


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
