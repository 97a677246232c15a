"""The Score stream over real gRPC."""

import dataclasses

import grpc
import numpy as np
import pytest
import torch

from pad.v1 import common_pb2, reward_pb2
from reward_svc.model import PersRM
from reward_svc.prompts import Reference, RewardContext
from svc_common.preference_prompt import ChatMessage
from tests.reward_svc.oracle import Oracle
from tests.reward_svc.replica import BRIEF, CHAT, TOLERANCE, context
from tests.reward_svc.service import (
    candidate_rows,
    commit_rows,
    context_message,
    pack,
    running_service,
    wait_for_free_slots,
)

CANDIDATES = [7, 99, 30, 140]
TWO = context(("Be brief.", 1.0), ("Be kind.", 0.5))


async def test_sessions_are_opened_stepped_and_closed_over_grpc(
    model: PersRM, oracle: Oracle
) -> None:
    async with running_service(model) as service:
        call = service.stub.Score()
        opens = [service.open(5, BRIEF), service.open(6, TWO, [70, 71])]
        await call.write(reward_pb2.ScoreRequest(opens=opens))
        opened = [(await call.read()).opened[0].session for _ in opens]
        assert opened == [5, 6]
        await call.write(reward_pb2.ScoreRequest(commits=commit_rows((5, 0, 42), (6, 2, 72))))
        asked = candidate_rows((6, 3, CANDIDATES), (5, 1, CANDIDATES[:2]), (7, 0, [1]))
        await call.write(reward_pb2.ScoreRequest(candidates=asked, batch_id=77))
        response = await call.read()
        assert response.batch_id == 77
        rows = response.rewards
        assert (rows.sessions, rows.steps) == (pack([6, 5]), pack([3, 1]))
        assert (rows.epochs, rows.num_candidates) == (pack([0, 0]), pack([4, 2]))
        expected = torch.cat(
            [
                oracle.rewards(TWO, [70, 71, 72], CANDIDATES),
                oracle.rewards(BRIEF, [42], CANDIDATES[:2]),
            ]
        )
        rewards = torch.tensor(np.frombuffer(rows.rewards, "<f4"))
        torch.testing.assert_close(rewards, expected, **TOLERANCE)
        (error,) = response.row_errors
        assert error.reason == reward_pb2.ROW_ERROR_REASON_UNKNOWN_SESSION
        assert (error.session, error.message) == (7, "session: must be open, 7 is not")
        assert response.timings.forward_s > 0
        assert response.timings.select_s > 0
        assert response.timings.queue_s >= 0
        assert (response.load.num_free_slots, response.load.num_sessions) == (11, 2)
        await call.write(reward_pb2.ScoreRequest(closes=[5, 6, 99]))
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("how", ["cancel", "half close"])
async def test_the_end_of_a_stream_frees_all_its_rows(model: PersRM, how: str) -> None:
    async with running_service(model) as service:
        call = service.stub.Score()
        await call.write(reward_pb2.ScoreRequest(opens=[service.open(n, TWO) for n in range(5)]))
        for _ in range(5):
            assert (await call.read()).opened
        assert await service.free_slots() == 1
        if how == "cancel":
            call.cancel()
        else:
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
        await wait_for_free_slots(service, 16)


async def test_streams_cancelled_at_any_moment_leave_no_row_behind(model: PersRM) -> None:
    async with running_service(model) as service:
        for i in range(20):
            call = service.stub.Score()
            request = reward_pb2.ScoreRequest(
                opens=[service.open(1, TWO)],
                commits=commit_rows((1, 0, 42)),
                candidates=candidate_rows((1, 1, CANDIDATES)),
                batch_id=1,
            )
            await call.write(request)
            for _ in range(i % 3):
                await call.read()
            call.cancel()
        await wait_for_free_slots(service, 16)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (dataclasses.replace(BRIEF, preferences=()), "preferences: must have 1..8 entries, got 0"),
        (context(*[("Be brief.", 1.0)] * 9), "preferences: must have 1..8 entries, got 9"),
        (context((" \n", 1.0)), "preferences[0].text: must not be blank"),
        (context(("x" * 2001, 1.0)), "must be 1..2000 characters, got 2001"),
        (context(("Be brief.", 0.0)), "preferences[0].weight: must be > 0 and <= 10"),
        (context(("Be brief.", 10.5)), "preferences[0].weight: must be > 0 and <= 10"),
        (context(("Be brief.", float("nan"))), "preferences[0].weight: must be > 0"),
        (context(("Hi <|end|>", 1.0)), "preferences[0].text: must not hold a control token"),
        (
            context(("Be brief.", 1.0), prompt=(ChatMessage("assistant", "Hi"),)),
            "chat.messages: need one with role user, got none",
        ),
        (
            context(("Be brief.", 1.0), prompt=(*CHAT, ChatMessage("tool", "Hi"))),
            "chat.messages[1].role: must be system | user | assistant, got 'tool'",
        ),
        (
            context(("Be brief.", 1.0), prompt=(ChatMessage("user", "<|end|>"),)),
            "chat.messages[0].content: must not hold the control token",
        ),
        (context(("Be brief.", 1.0), prompt=""), "input: prompt must not be empty"),
        (context(("Be brief.", 1.0), prompt="x" * 300), "context: must have at most 256 tokens"),
    ],
)
async def test_an_opening_that_can_never_succeed_is_refused_and_the_stream_goes_on(
    model: PersRM, what: RewardContext, message: str
) -> None:
    async with running_service(model) as service:
        call = service.stub.Score()
        opens = [service.open(1, what), service.open(2, BRIEF)]
        await call.write(reward_pb2.ScoreRequest(opens=opens))
        (error,) = (await call.read()).row_errors
        assert (error.session, error.step) == (1, 0)
        assert error.reason == reward_pb2.ROW_ERROR_REASON_INVALID
        assert message in error.message
        assert (await call.read()).opened[0].session == 2
        call.cancel()


async def test_another_tokenizer_is_refused(model: PersRM) -> None:
    async with running_service(model) as service:
        opening = service.open(1, BRIEF)
        opening.tokenizer_fingerprint = "other"
        call = service.stub.Score()
        await call.write(reward_pb2.ScoreRequest(opens=[opening]))
        (error,) = (await call.read()).row_errors
        assert error.reason == reward_pb2.ROW_ERROR_REASON_MODEL_MISMATCH
        assert "tokenizer_fingerprint: must be the reward model's" in error.message
        call.cancel()
        request = reward_pb2.ScoreSequencesRequest(context=context_message(BRIEF), sequences=[b""])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.ScoreSequences(request)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_replica_without_backbone_refuses_the_reference_it_has_not(
    model: PersRM, oracle: Oracle
) -> None:
    bare = dataclasses.replace(model, heads=model.heads[:1])
    async with running_service(bare) as service:
        call = service.stub.Score()
        base = dataclasses.replace(BRIEF, reference=Reference.BASE)
        opens = [service.open(1, BRIEF), service.open(2, base)]
        await call.write(reward_pb2.ScoreRequest(opens=opens))
        (error,) = (await call.read()).row_errors
        assert error.reason == reward_pb2.ROW_ERROR_REASON_MODEL_MISMATCH
        assert "REWARD_BACKBONE_DIR is not set" in error.message
        assert (await call.read()).opened[0].session == 2
        call.cancel()
        info = await service.stub.GetServerInfo(reward_pb2.RewardServiceGetServerInfoRequest())
        assert list(info.references) == [common_pb2.REFERENCE_MODE_BASE]


@pytest.mark.parametrize(
    ("request_message", "message"),
    [
        (
            reward_pb2.ScoreRequest(commits=reward_pb2.CommitRows(sessions=b"abc")),
            "commits.sessions: must hold 4 bytes a number, got 3 bytes",
        ),
        (
            reward_pb2.ScoreRequest(commits=reward_pb2.CommitRows(sessions=pack([1, 2]))),
            "commits.epochs: must hold 2 numbers, got 0",
        ),
        (
            reward_pb2.ScoreRequest(
                candidates=reward_pb2.CandidateRows(
                    sessions=pack([1]),
                    epochs=pack([0]),
                    steps=pack([0]),
                    num_candidates=pack([3]),
                    candidate_ids=pack([1, 2]),
                )
            ),
            "candidates.candidate_ids: must hold 3 numbers, got 2",
        ),
    ],
)
async def test_arrays_that_do_not_fit_together_end_the_stream(
    model: PersRM, request_message: reward_pb2.ScoreRequest, message: str
) -> None:
    async with running_service(model) as service:
        call = service.stub.Score()
        await call.write(reward_pb2.ScoreRequest(opens=[service.open(1, BRIEF)]))
        assert (await call.read()).opened
        await call.write(request_message)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == message
        await wait_for_free_slots(service, 16)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "num_candidates: must be 1..1024, got 0"),
        ([1, 262], "candidate_ids: must be 0..261, got 262"),
        ([1] * 1025, "num_candidates: must be 1..1024, got 1025"),
    ],
)
async def test_candidates_that_cannot_be_scored_fail_their_row_alone(
    model: PersRM, ids: list[int], message: str
) -> None:
    async with running_service(model) as service:
        call = service.stub.Score()
        await call.write(reward_pb2.ScoreRequest(opens=[service.open(n, BRIEF) for n in (1, 2)]))
        for _ in range(2):
            assert (await call.read()).opened
        asked = candidate_rows((1, 0, ids), (2, 0, CANDIDATES))
        await call.write(reward_pb2.ScoreRequest(candidates=asked, batch_id=3))
        response = await call.read()
        assert response.rewards.sessions == pack([2])
        (error,) = response.row_errors
        assert (error.session, error.message) == (1, message)
        assert error.reason == reward_pb2.ROW_ERROR_REASON_INVALID
        call.cancel()
