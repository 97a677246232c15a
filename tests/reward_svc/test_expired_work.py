"""What nobody waits for any more is not computed: calls past their deadline, streams that ended."""

import asyncio
import threading
from collections.abc import Generator

import grpc
import pytest

from pad.v1 import reward_pb2
from reward_svc.batcher import Batcher
from reward_svc.model import PersRM
from tests.reward_svc.replica import BRIEF, running_replica
from tests.reward_svc.service import context_message, pack, running_service


class Busy:
    """A call that keeps the model thread busy until it is let go."""

    def __init__(self, batcher: Batcher) -> None:
        self._has_begun, self._may_end = threading.Event(), threading.Event()
        self._task = asyncio.ensure_future(batcher.call(self._work()))

    def _work(self) -> Generator[int, None, None]:
        self._has_begun.set()
        self._may_end.wait()
        yield 1

    async def begin(self) -> None:
        await asyncio.to_thread(self._has_begun.wait)

    async def end(self) -> None:
        self._may_end.set()
        await self._task


async def test_whole_answers_are_not_scored_after_the_callers_deadline(model: PersRM) -> None:
    async with running_service(model) as service:
        busy = Busy(service.replica.batcher)
        await busy.begin()
        runner = service.replica.cache.runner
        before = runner.num_forwards
        request = reward_pb2.ScoreSequencesRequest(
            context=context_message(BRIEF),
            sequences=[pack([70, 71])],
            tokenizer_fingerprint=service.fingerprint,
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.ScoreSequences(request, timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await service.free_slots()  # a call later the server has noticed, too
        await busy.end()
        await service.replica.settle()
        assert runner.num_forwards == before
        assert runner.num_free == service.replica.cache.num_slots
        await service.stub.ScoreSequences(request)
        assert runner.num_forwards > before


@pytest.mark.parametrize("is_wanted", [True, False])
async def test_a_session_whose_stream_ended_while_it_waited_is_not_read(
    model: PersRM, is_wanted: bool
) -> None:
    async with running_replica(model) as replica:
        busy = Busy(replica.batcher)
        await busy.begin()
        generator = replica.generator()
        await generator.send(openings=(generator.opening(1, BRIEF),))
        if not is_wanted:
            replica.batcher.intake.end_stream(generator.stream)
        await busy.end()
        if is_wanted:
            assert (await generator.next_answer()).opened
        await replica.settle()
        assert (replica.cache.runner.num_forwards > 0) is is_wanted
        assert (replica.cache.runner.num_free == replica.cache.num_slots) is not is_wanted
