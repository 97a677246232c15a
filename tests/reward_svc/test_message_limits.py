"""What one message may ask for: all of it is looked at in one go, so it is bounded."""

import grpc
import pytest

from pad.v1 import reward_pb2
from reward_svc.messages import CommitRows
from reward_svc.model import PersRM
from reward_svc.stream import MAX_UNREAD_ANSWERS
from reward_svc.wire import MAX_OPENINGS, MAX_ROWS
from svc_common.errors import OverloadedError
from svc_common.message_fields import MAX_FIELDS, QUICK_BYTES
from tests.reward_svc.replica import BRIEF, running_replica
from tests.reward_svc.service import Service, candidate_rows, commit_rows, pack, running_service

TOO_MANY = MAX_ROWS + 1
COMMITS = commit_rows(*[(1, 0, 7)] * TOO_MANY)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            f"closes: must have at most {MAX_ROWS} entries, got {TOO_MANY}",
            reward_pb2.ScoreRequest(closes=[1] * TOO_MANY),
        ),
        (
            f"opens: must have at most {MAX_OPENINGS} entries, got {MAX_OPENINGS + 1}",
            reward_pb2.ScoreRequest(opens=[reward_pb2.SessionOpen()] * (MAX_OPENINGS + 1)),
        ),
        (
            f"commits.sessions: must have at most {MAX_ROWS} entries, got {TOO_MANY}",
            reward_pb2.ScoreRequest(commits=COMMITS),
        ),
        (
            f"tentative_commits.sessions: must have at most {MAX_ROWS} entries, got {TOO_MANY}",
            reward_pb2.ScoreRequest(tentative_commits=COMMITS),
        ),
        (
            f"candidates.sessions: must have at most {MAX_ROWS} entries, got {TOO_MANY}",
            reward_pb2.ScoreRequest(candidates=candidate_rows(*[(1, 0, [7])] * TOO_MANY)),
        ),
        (
            f"request: must have at most {MAX_FIELDS} fields, those of messages in it included,"
            f" got more in {2 * QUICK_BYTES} bytes",
            reward_pb2.ScoreRequest(opens=[reward_pb2.SessionOpen()] * QUICK_BYTES),
        ),
    ],
    ids=["closes", "opens", "commits", "tentative commits", "candidates", "fields"],
)
async def test_more_than_a_message_may_ask_for_ends_the_stream(
    model: PersRM, rule: str, message: reward_pb2.ScoreRequest
) -> None:
    """A message of 2 MB, all of it sessions to open, stopped the service for a minute."""
    async with running_service(model) as service:
        call = service.stub.Score(iter([message]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == rule


async def test_as_many_rows_as_a_message_may_have_are_each_answered(model: PersRM) -> None:
    rows = commit_rows(*[(i, 0, 7) for i in range(MAX_ROWS)])
    async with running_service(model) as service:
        call = service.stub.Score(iter([reward_pb2.ScoreRequest(commits=rows)]))
        sessions = [error.session async for answer in call for error in answer.row_errors]
        assert sessions == list(range(MAX_ROWS))


async def test_more_tokens_than_the_context_has_are_refused_before_they_are_looked_at(
    model: PersRM,
) -> None:
    most = model.context_length
    ids = pack([7] * (most + 1))
    rule = f"must have at most {most} tokens, got {most + 1}"
    async with running_service(model) as service:
        fault = await refused_opening(service, ids)
        assert fault.message == f"token_ids: {rule}"
        context = service.open(1, BRIEF).context
        request = reward_pb2.ScoreSequencesRequest(
            context=context, sequences=[ids], tokenizer_fingerprint=service.fingerprint
        )
        with pytest.raises(grpc.aio.AioRpcError, match=rule):
            await service.stub.ScoreSequences(request)


async def refused_opening(service: Service, token_ids: bytes) -> reward_pb2.RowError:
    opening = service.open(1, BRIEF)
    opening.token_ids = token_ids
    call = service.stub.Score(iter([reward_pb2.ScoreRequest(opens=[opening])]))
    (fault,) = (await call.read()).row_errors
    assert fault.reason == reward_pb2.ROW_ERROR_REASON_INVALID
    return fault


async def test_answers_that_nobody_reads_are_bounded_whatever_one_message_asks(
    model: PersRM,
) -> None:
    """Each message was let in while few answers waited, and could add a million."""
    rows = CommitRows.of([(1, 0, 0, 7)] * MAX_ROWS)
    async with running_replica(model) as replica:
        generator = replica.generator()
        for _ in range(4):
            await generator.send(commits=rows)
        await replica.settle()
        num_answers = 0
        while await generator.stream.next_answer() is not None:
            num_answers += 1
        assert num_answers == MAX_UNREAD_ANSWERS + 1
        with pytest.raises(OverloadedError, match=f"at most {MAX_UNREAD_ANSWERS} may wait"):
            await generator.send(commits=rows)
