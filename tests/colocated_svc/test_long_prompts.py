"""Long prompts of the reward model become tokens beside the loop that writes all answers."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from reward_svc import prompts
from svc_common.errors import RewardUnavailableError
from svc_common.lm import tokenizing
from tests.colocated_svc.pair import RunningPair, apart, colocated, guided, ids

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")
SHORT, LONG, WISH = "hello", "tell me " * 10, "Be kind."
QUICK_CHARACTERS = 200  # between what SHORT and LONG are worth


@pytest.fixture(autouse=True)
def long_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "MAX_QUICK_CHARACTERS", QUICK_CHARACTERS)


@asynccontextmanager
async def tokenising_somebody_elses(running: RunningPair) -> AsyncIterator[None]:
    """Keep the thread that tokenises busy while the body runs."""
    has_begun, may_end = threading.Event(), threading.Event()

    def work() -> None:
        has_begun.set()
        may_end.wait()

    busy = asyncio.ensure_future(running.tokenizing.run(1 << 20, work))
    await asyncio.to_thread(has_begun.wait)
    try:
        yield
    finally:
        may_end.set()
        await busy


async def test_others_are_written_while_a_long_prompt_becomes_tokens(
    variables: dict[str, str],
) -> None:
    """The loop tokenised it, in which nobody got a token."""
    async with apart(variables) as writer:
        expected = await writer.write(LONG, guided(LONG, WISH))
    async with colocated(variables) as running:
        async with tokenising_somebody_elses(running):
            long = asyncio.ensure_future(running.write(LONG, guided(LONG, WISH)))
            for _ in range(3):
                await running.write(SHORT, guided(SHORT, WISH))
            assert not long.done()
        assert ids(await long) == ids(expected)


async def test_an_answer_cancelled_while_its_prompt_becomes_tokens_holds_nothing(
    variables: dict[str, str],
) -> None:
    async with colocated(variables) as running:
        scorer = running.pair.scorer
        async with tokenising_somebody_elses(running):
            answer = running.answer(LONG, guided(LONG, WISH))
            running.engine.submit(answer)
            await running.write(SHORT, guided(SHORT, WISH))
            assert len(scorer._placing) == 1
            running.engine.cancel(answer)
            await running.write(SHORT, guided(SHORT, WISH))
            assert not scorer._placing
        await running.write(SHORT, guided(SHORT, WISH))
        assert len(scorer._placements) == 0
        assert running.num_used <= 2  # of the last answer, until the next step


async def test_whole_answers_wait_for_their_long_prompt_no_longer_than_they_may(
    variables: dict[str, str],
) -> None:
    context = guided(LONG, WISH).reward_context
    assert context is not None
    async with colocated(variables) as running, tokenising_somebody_elses(running):
        with pytest.raises(RewardUnavailableError, match=r"did not score the answers within 0.05"):
            await running.queries.score_sequences(context, [[70]], 0.05)


async def test_a_prompt_that_cannot_be_tokenised_fails_its_answer_alone(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with colocated(variables) as running:
        with monkeypatch.context() as broken:
            broken.delattr(prompts, "num_characters")
            with pytest.raises(AttributeError):
                await running.write(SHORT, guided(SHORT, WISH))
        assert len(await running.write(SHORT, guided(SHORT, WISH))) == 12
